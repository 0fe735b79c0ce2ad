"""DSPy: a prediction with its default adapter."""

import sys

import dspy

URL = sys.argv[1]
dspy.configure(lm=dspy.LM("openai/demo", api_base=f"{URL}/v1", api_key="none", max_tokens=200, cache=False))
assert dspy.LM("openai/demo", api_base=f"{URL}/v1", api_key="none", max_tokens=20, cache=False)("Say hi.")
assert dspy.Predict("question -> answer")(question="What is 17 + 25?").answer
