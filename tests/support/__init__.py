"""What the tests are made with: toys, stand-ins, live programs."""
