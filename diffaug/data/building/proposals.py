"""Groups that file names suggest, with what near-duplicates say about them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffaug.data.catalog import GroupProposal
from diffaug.data.layouts.entries import Entry
from diffaug.data.layouts.groups import confirmation, propose_group_rule, with_groups


def propose_groups(entries: Sequence[Entry], usable: pd.DataFrame) -> GroupProposal | None:
    """The rule that file names suggest; None if there is none, or the images have groups already.

    `usable` has the columns path and picture of the usable images.
    """
    if any(entry.group for entry in entries):
        return None
    rule = propose_group_rule(entries)
    if rule is None:
        return None
    grouped, _ = with_groups(entries, rule.pattern)
    groups = {entry.path: entry.group or "" for entry in grouped}
    shown = usable["picture"].where(usable["picture"] != "", usable["path"])
    pictures = np.asarray(pd.factorize(shown)[0], np.int64)
    confirmed = confirmation([groups.get(path, "") for path in usable["path"]], pictures)
    return GroupProposal(rule.pattern, rule.groups, rule.evidence, confirmed.is_strong)
