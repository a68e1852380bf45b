"""The verbs of `robot-rl`: what each does, takes and looks like on a command line."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verb:
    """One verb: what it does, its own arguments, and where its code stands.

    Attributes:
        summary: one sentence.
        function: `module:function` under `robot_rl.cli`, called with (arguments, overrides).
        arguments: the verb's own `key=value` arguments with a sentence each; every other `key=value`
            is a Hydra override.
        required: those of `arguments` without which it cannot run.
        examples: command lines.
        configured: whether it takes Hydra overrides at all.
        subjects: what it can be about, given as a bare word.
        flags: its own options, such as `--quick`.
    """

    summary: str
    function: str
    arguments: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    configured: bool = True
    subjects: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


VERBS: dict[str, Verb] = {
    "doctor": Verb(
        "Check that this machine can run the main job, and say how to mend what cannot.",
        "doctor:doctor",
        examples=("robot-rl doctor",),
        configured=False,
    ),
    "collect": Verb(
        "Record episodes in a simulated task with its scripted expert, at random, or with a policy.",
        "collect:collect",
        {
            "out": "the episode store to append to (required)",
            "episodes": "how many (50)",
            "source": "expert, random, or the path of a policy checkpoint (expert)",
            "noise": "on the expert's actions; several levels share the episodes: 0,0.3 (the task's own)",
            "failures": "share of failures, half of them near misses; the rest succeed (as it comes)",
            "workers": "processes that step the simulated arms (collect.workers)",
            "first_seed": "the first episode's seed; the others follow (0)",
        },
        ("out",),
        (
            "robot-rl collect out=data/push episodes=50",
            "robot-rl collect task=widowx/pick_place out=data/judge episodes=200 noise=0,0.3 failures=0.5",
            "robot-rl collect task=metaworld/drawer-open-v3 out=data/drawer",
            "robot-rl collect out=data/push source=random workers=1",
        ),
    ),
    "play": Verb(
        "Drive a simulated task by keyboard or gamepad in a window, and record what is done.",
        "play:play",
        {
            "out": "the episode store to append to (without it: nothing is recorded)",
            "seed": "the first episode's seed; the others follow (0)",
            "steps": "longest episode in steps (200)",
        },
        examples=(
            "robot-rl play task=widowx/pick_place out=data/mine",
            "robot-rl play task=metaworld/drawer-open-v3",
        ),
    ),
    "train": Verb(
        "Train one stage in a run directory.",
        "pipeline:train_stage",
        {
            "stage": "bc, world_model, refine, reward, offline or online (required unless resume= is given)",
            "run": "the run directory: new, or one that holds the stages before this one (runs/DATE_...)",
            "resume": "a run directory to go on with, as it was configured",
            "dataset": "recorded episodes for bc or world_model: rlds:PATH or store:PATH",
        },
        examples=(
            "robot-rl train stage=bc",
            "robot-rl train stage=world_model run=runs/mine",
            "robot-rl train stage=bc dataset=rlds:data/bridge",
            "robot-rl train resume=runs/mine",
            "robot-rl train -m stage=bc seed=0,1,2",
        ),
    ),
    "pipeline": Verb(
        "Run all stages, evaluate after each, and write the report. Skips what the run already holds.",
        "pipeline:pipeline",
        {
            "run": "the run directory (runs/DATE_TASK_PRESET)",
            "resume": "a run directory to go on with, as it was configured",
        },
        examples=(
            "robot-rl pipeline",
            "robot-rl pipeline task=metaworld/drawer-open-v3",
            "robot-rl pipeline preset=smoke seed=3",
            "robot-rl pipeline resume=runs/mine",
        ),
    ),
    "eval": Verb(
        "Success of a policy on the held-out seeds, by the simulator's truth.",
        "verbs:evaluate",
        {
            "checkpoint": "a policy checkpoint or bundle, or `expert` (required)",
            "episodes": "how many (evaluation.episodes)",
            "video": "an mp4 to write the first episodes to",
            "json": "a file to write the result to",
        },
        ("checkpoint",),
        (
            "robot-rl eval checkpoint=runs/mine/stages/online/policy",
            "robot-rl eval checkpoint=expert task=widowx/pick_place video=expert.mp4",
        ),
    ),
    "label-actions": Verb(
        "Give actions to recorded videos that have none, by an inverse dynamics model of those that have.",
        "actions:label",
        {
            "dataset": "episodes with actions, and maybe some without: store:PATH or rlds:PATH (required)",
            "action_free": "a dataset whose actions, if any, are not to be believed",
            "out": "the episode store to write, with actions in every episode (required)",
            "updates": "gradient steps of the model (2000)",
            "seed": "of the model (0)",
        },
        ("dataset", "out"),
        ("robot-rl label-actions dataset=data/push action_free=data/videos out=data/all",),
        configured=False,
    ),
    "dataset": Verb(
        "Look at recorded episodes, check, convert, merge, split, filter and label them, in any format.",
        "dataset:dataset",
        {
            "src": "FORMAT:PATH or a path (store, lerobot_v3, minari, robomimic, rlds, rosbag); merge: A,B",
            "dst": "the new path (convert, merge, split, filter, label)",
            "format": "to write: store, lerobot_v3, minari or robomimic (store)",
            "sheet": "info: a picture to write a contact sheet to",
            "rows": "info: episodes on the contact sheet (12)",
            "camera": "info: of the contact sheet (front)",
            "reference": "info: the dataset whose coverage counts as 1 for SACo",
            "returns": "info: returns of a random and of an expert policy for TQ (worst,best of src)",
            "bins": "info: parts of each dimension's range for SACo (5)",
            "json": "info, stats: a file to write the figures to",
            "shares": "split: NAME:SHARE,... (train:0.9,test:0.1)",
            "seed": "split: of the random order (0)",
            "success": "filter: yes or no",
            "steps": "filter: length, a range such as 10-50",
            "instruction": "filter: words in it",
            "source": "filter: who acted",
            "episodes": "filter: numbers and ranges, such as 0-9,12",
            "reward": "label: a reward model, RUN/stages/reward/model, or `oracle`: the recorded truth",
            "ends": "label: `cut` at the first judged success, or `keep` all and reward each step (cut)",
            "step_reward": "label: of a step that is no success (-1)",
            "success_reward": "label: of a judged success, more than step_reward (0)",
            "paraphrase": "label: cosine of text features that makes a new wording a known one (refuse)",
            "cache": "label: folder of answers, named by content (DST/.labels)",
        },
        (),
        (
            "robot-rl dataset info src=runs/mine/data/demos sheet=demos.png",
            "robot-rl dataset convert src=rlds:data/bridge dst=data/bridge_lerobot format=lerobot_v3",
            "robot-rl dataset convert src=data/lift.hdf5 dst=data/lift",
            "robot-rl dataset merge src=data/a,data/b dst=data/both",
            "robot-rl dataset split src=data/both dst=data/parts shares=train:0.8,test:0.2",
            "robot-rl dataset filter src=data/both dst=data/good success=yes steps=10-",
            "robot-rl dataset validate src=data/good",
            "robot-rl dataset label src=data/good dst=data/judged reward=runs/mine/stages/reward/model",
        ),
        configured=False,
        subjects=("info", "validate", "convert", "merge", "split", "filter", "stats", "label"),
    ),
    "replay": Verb(
        "Replay recorded episodes: in the simulator, or in shadow beside a policy and a reward model.",
        "replay:replay",
        {
            "dataset": "FORMAT:PATH or a path, of any format that `dataset` reads, bags too (required)",
            "episode": "its number in the dataset, or all (0)",
            "checkpoint": "a policy or bundle to set beside the recording (else: open loop in the simulator)",
            "reward": "a reward model to judge the recorded pictures",
            "start": "the first step (0)",
            "stop": "the step before which to stop (the end)",
            "speed": "recorded seconds a second, of the video; paces the replay too (as fast as it goes)",
            "out": "where to write pictures, videos and Rerun files (replay/)",
        },
        ("dataset",),
        (
            "robot-rl replay dataset=runs/mine/data/demos episode=3",
            "robot-rl replay dataset=runs/mine/data/demos episode=all --rerun",
            "robot-rl replay dataset=rlds:data/bridge checkpoint=runs/bridge/stages/bc/policy",
            "robot-rl replay dataset=data/mine checkpoint=bundles/push reward=runs/mine/stages/reward/model",
            "robot-rl replay dataset=data/mine checkpoint=bundles/push start=10 stop=30 --single-step",
        ),
        flags=("--single-step", "--rerun"),
    ),
    "imagine": Verb(
        "Show a recorded episode beside the one that a world model imagines; with --drive, steer one.",
        "imagine:imagine",
        {
            "run": "a run with a world model and its recordings (this or checkpoint= is required)",
            "checkpoint": "a world model, in the place of the run's",
            "dataset": "the recordings: store:PATH or rlds:PATH (the run's, in the order they were made)",
            "episode": "its number among them (0)",
            "seed": "of the imagined frames' noise (0)",
            "out": "the mp4 to write; the last frame goes beside it (RUN/videos/imagine_EPISODE.mp4)",
        },
        examples=(
            "robot-rl imagine run=runs/mine episode=3",
            "robot-rl imagine checkpoint=runs/mine/stages/world_model/model dataset=data/push out=a.mp4",
            "robot-rl imagine run=runs/mine --drive",
        ),
        configured=False,
        flags=("--drive",),
    ),
    "examine": Verb(
        "Measure whether a run's world model can be believed: drift, honesty, imagined beside simulated.",
        "examine:examine",
        {
            "run": "the run directory, with the world model done (required)",
            "episodes": "imagined episodes of each policy (200)",
            "json": "a file to write the figures to",
        },
        ("run",),
        ("robot-rl examine run=runs/mine json=examine.json",),
        configured=False,
    ),
    "report": Verb(
        "Write report.html of a run again.",
        "verbs:report",
        {"run": "the run directory (required)"},
        ("run",),
        ("robot-rl report run=runs/mine",),
        configured=False,
    ),
    "export": Verb(
        "Make the policy bundle of a run: weights, statistics, safety limits, manifest with hashes.",
        "verbs:export",
        {
            "run": "the run directory (required)",
            "out": "the bundle to write (RUN/bundle)",
            "stage": "whose policy (the last stage done)",
        },
        ("run",),
        ("robot-rl export run=runs/mine out=bundles/push", "robot-rl export run=runs/mine --onnx"),
        configured=False,
        flags=("--onnx",),
    ),
    "sysid": Verb(
        "Fit friction, damping, armature, servo gains and delay of the simulated arm to a joint log.",
        "identification:sysid",
        {
            "log": "CSV with command_JOINT and measured_JOINT [rad], maybe segment and time [s] (required)",
            "period": "seconds between samples, where the log has no time column",
            "robot": "widowx_250s or widowx_ai (widowx_250s)",
            "iterations": "at most, of the least squares (30)",
            "out": "the parameter file to write (ROBOT.json)",
        },
        ("log",),
        (
            "robot-rl sysid log=arm.csv out=arm.json",
            "robot-rl sysid log=triangle.csv period=0.05",
            "robot-rl collect out=data/push +task.env.arm_parameters=arm.json",
        ),
        configured=False,
    ),
    "study": Verb(
        "Run a comparison of the paper's kind, with seeds and intervals, and write its table and plots.",
        "study:study",
        {
            "out": "the directory for its runs and results (runs/passivity)",
            "seeds": "training seeds (0,1,2,3,4)",
            "episodes": "of practice for each policy (600)",
            "evaluation": "held-out episodes for each policy, with the filter and without (50)",
            "jobs": "policies trained at the same time (2)",
        },
        examples=(
            "robot-rl study passivity",
            "robot-rl study passivity --quick out=runs/try",
            "robot-rl study passivity seeds=0,1 jobs=1",
        ),
        configured=False,
        subjects=("passivity",),
        flags=("--quick",),
    ),
    "bringup": Verb(
        "Start the ROS 2 graph (arm, policy, guard) from pip alone, and run episodes through it.",
        "verbs:bringup",
        {
            "bundle": "the policy bundle (required)",
            "episodes": "how many episodes before it stops (1; 0 = until Ctrl-C)",
            "first_seed": "the first episode's seed (the first held-out one)",
            "lockstep": "true: simulated time waits for every node, so that a slow machine changes nothing",
            "max_age_s": "take messages of up to this age, on a machine too busy for real time (as bundled)",
            "reward": "a reward model; starts the reward node",
            "record": "a directory for the episodes; starts the recorder",
        },
        ("bundle",),
        (
            "robot-rl bringup bundle=bundles/push episodes=5",
            "robot-rl bringup bundle=bundles/push episodes=50 lockstep=true record=data/graph "
            "reward=runs/mine/stages/reward/model",
        ),
        configured=False,
    ),
}
