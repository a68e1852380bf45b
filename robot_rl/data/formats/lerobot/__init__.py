"""LeRobotDataset v3.0, read and written without the lerobot package.

    meta/info.json   meta/stats.json   meta/tasks.parquet   meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet ...        videos/KEY/chunk-000/file-000.mp4 ... (read; written if asked)
    meta/robot_rl.parquet                      ours

It has T rows an episode where we have T+1 observations and T steps: row t holds observation t and what
was done and came of it. Columns beside the observations, under their own names:

    action (executed)   next.reward   next.done = terminated or truncated   next.terminated   next.truncated
    next.success   next.cost   complementary_info.policy_action (requested)
    complementary_info.is_intervention   complementary_info.filter_reason

`meta/robot_rl.parquet` holds, a row an episode, the observation after the last step, our metadata, and in
its schema the exact shapes and types; lerobot itself does not look at it. Without it, as in datasets that
lerobot recorded, the last observation is repeated, so that no action is lost, and `metadata.extra` says so.

Pictures are written as PNG, which is exact; as video (`video=True`) they are smaller and no longer exact.
"""

from robot_rl.data.formats.lerobot.columns import recognises
from robot_rl.data.formats.lerobot.reader import read
from robot_rl.data.formats.lerobot.writer import write

__all__ = ["read", "recognises", "write"]
