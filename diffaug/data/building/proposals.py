"""Groups that file names suggest, with what near-duplicates say about them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffaug.data.catalog import GroupProposal
from diffaug.data.layouts.entries import PAGE, Entry
from diffaug.data.layouts.groups import GroupRule, confirmation, groups_of, propose_group_rule


def rule_of_names(entries: Sequence[Entry]) -> GroupRule | None:
    """The rule that file names suggest; None if there is none, or the images have groups already."""
    return None if any(entry.group for entry in entries) else propose_group_rule(entries)


def propose_groups(rule: GroupRule, usable: pd.DataFrame) -> GroupProposal:
    """A rule with what is known of usable images, of which the columns path and picture are needed."""
    shown = usable["picture"].where(usable["picture"] != "", usable["path"])
    pictures = np.asarray(pd.factorize(shown)[0], np.int64)
    files = (path.partition(PAGE)[0] for path in usable["path"])
    confirmed = confirmation(groups_of(files, rule.pattern), pictures)
    return GroupProposal(rule.pattern, rule.groups, rule.evidence, confirmed.is_strong)
