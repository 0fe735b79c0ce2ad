"""How fast a processor reads prompts beside answers, and how much of one it should read in a step."""

# Rows of a prompt that kernels compute together.
GROUP = 4
# In steps of one row, with AVX-512: a step of answers, and each answer in it; besides its rows, a run of a piece of a
# prompt, and a run of a prompt's end, of which there are logits.
STEP_COST, ANSWER_COST, PIECE_COST, END_COST = 0.75, 0.325, 0.3, 0.5
# Of a row of a prompt, read in a group and without logits: at first, and the bounds of what is believed (0.17 to 0.29
# were seen, on fast and slow processors).
PROMPT_ROW_COST, ROW_COST_BOUNDS = 0.27, (0.1, 0.5)
# Runs of fewer rows take longer to read the weights than to compute.
MEASURED_ROWS = 64
# A step with a piece of a prompt takes no longer than two do once all prompts that wait are answered as well.
MOST_STEPS = 2


class Pace:
    """What rows of prompts take on this processor, by the shortest times so far.

    Attributes:
        row_cost: of a row, in steps of one.
    """

    def __init__(self) -> None:
        self.row_cost = PROMPT_ROW_COST
        self._row_s = self._step_s = float("inf")

    def note(self, rows: int, seconds: float) -> None:
        """Take the time of a run of so many rows of one sequence, of which logits of one at most were computed."""
        if rows == 1:
            self._step_s = min(self._step_s, seconds)
        elif rows >= MEASURED_ROWS:
            self._row_s = min(self._row_s, seconds / rows)
        if max(self._row_s, self._step_s) < float("inf"):
            least, most = ROW_COST_BOUNDS
            self.row_cost = min(max(self._row_s / self._step_s, least), most)

    def rows_beside(self, left: int, answers: int, waiting: int, *, joined: bool) -> int:
        """Return how many of the rows that are `left` of a prompt to compute while `answers` are written and `waiting`
        prompts read: whole groups or all, and never all but one, which would be read with the group before it.

        `joined`: pieces are in one run with the answers' rows, and a prompt's end is in the next run of the same step;
        else all are in runs of their own, whose time is counted alone.
        """
        step, later = (STEP_COST + ANSWER_COST * count for count in (answers, answers + waiting))
        time = MOST_STEPS * later - (step if joined else PIECE_COST)
        most = max(1, int(time / self.row_cost / GROUP)) * GROUP
        end = int((time - END_COST) / self.row_cost) if joined else most
        if left <= max(end, GROUP + 1):
            return left
        return min(most, (left - 2) // GROUP * GROUP)
