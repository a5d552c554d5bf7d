"""What can go wrong, by whose fault, and the exit code that says so.

    FugouError                    exit 1   ours: a bug
    ├── UserError                 exit 2   bad input or usage: a file, a key, a folder
    ├── Refused                   exit 3   the merchant's policy says no
    │   └── BudgetSpent           exit 3   the next charge would pass the cap
    ├── VerificationFailed        exit 4   a ledger, signature or digest that does not hold
    └── Unreachable               exit 5   a coordinator or database that does not answer

Every message names the thing, its value and the way out, in one line.
"""

from __future__ import annotations


class FugouError(Exception):
    """Something fugou itself did wrong."""

    exit_code = 1


class UserError(FugouError):
    """Input or usage that cannot be worked with."""

    exit_code = 2


class Refused(FugouError):
    """The merchant's policy does not allow what was asked."""

    exit_code = 3


class BudgetSpent(Refused):
    """The next charge would take the privacy loss past the policy's cap."""


class VerificationFailed(FugouError):
    """A signature, hash chain or digest does not hold."""

    exit_code = 4


class Unreachable(FugouError):
    """A coordinator or a database does not answer."""

    exit_code = 5
