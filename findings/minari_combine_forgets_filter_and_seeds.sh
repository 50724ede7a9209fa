#!/usr/bin/env bash
# Minari 0.5.4, hdf5, arrow and parquet alike: combine_datasets knows nothing of what was filtered or split. It copies
# all that lies in the folder of each of its datasets, so that the best episodes of two datasets, chosen with
# filter_episodes and put together for imitation, are all the episodes again, the bad ones too; and the two halves that
# split_dataset made, put together, hold each episode twice, after which a new split has the same episodes in training
# and in test. And what the copy lacks is each episode's seed, the options of its reset, and its metadata, the sum of
# rewards among them, so that no episode can be played again. add_to_dataset, by which a collector goes on with a
# dataset that exists, takes the same way, and its new episodes have none of these. Guess: the episodes that the
# arguments have, len() of them, whole. create_dataset_from_buffers, with an EpisodeBuffer made of each selected
# episode, its seed and its options (from storage.get_episode_metadata), keeps them.
#
# Seen, of each format: "3 of 4 episodes and 2: combined 6, seeds [None, None, None, None, None, None]; two halves of
# 4: combined 8; one episode more: seeds [5, 6, None]; lost: options, rewards_max, rewards_mean, rewards_min,
# rewards_std, rewards_sum, seed".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet minari==0.5.4 gymnasium==1.4.0 numpy==2.4.6 h5py==3.16.0 pyarrow==26.0.1 \
    jax==0.10.2 pillow==13.0.0
export MINARI_DATASETS_PATH="$folder/datasets"
cat > "$folder/finding.py" <<'END'
import warnings

import gymnasium
import minari
from minari import DataCollector

warnings.simplefilter("ignore")  # Minari asks for an author of each dataset


def play(env, seed):
    env.action_space.seed(seed)
    env.reset(seed=seed, options={"low": -0.01, "high": 0.01})
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated or truncated


def dataset(name, seeds, data_format):
    env = DataCollector(gymnasium.make("CartPole-v1"), data_format=data_format)
    for seed in seeds:
        play(env, seed)
    return env.create_dataset(name)


def metadata(data):
    return list(data.storage.get_episode_metadata(data.episode_indices))


def seeds(data):
    return [episode.get("seed") for episode in metadata(data)]


for data_format in ("hdf5", "arrow", "parquet"):
    first = dataset(f"{data_format}/first-v0", [1, 2, 3, 4], data_format)
    second = dataset(f"{data_format}/second-v0", [5, 6], data_format)
    assert seeds(first) == [1, 2, 3, 4] and seeds(second) == [5, 6]

    shortest = min(len(episode) for episode in first)
    best = first.filter_episodes(lambda episode: len(episode) > shortest)
    chosen = minari.combine_datasets([best, second], f"{data_format}/chosen-v0")
    assert len(best) == 3 and len(list(best)) == 3 and shortest in [len(episode) for episode in chosen]

    halves = minari.split_dataset(first, [2, 2], seed=1)
    whole = minari.combine_datasets(halves, f"{data_format}/whole-v0")

    lost = metadata(first)[0].keys() - metadata(chosen)[0].keys()
    env = DataCollector(gymnasium.make("CartPole-v1"), data_format=data_format)
    play(env, 7)
    env.add_to_dataset(second)

    print(
        f"{data_format}: {len(best)} of 4 episodes and 2: combined {len(chosen)}, seeds {seeds(chosen)}; two halves of "
        f"4: combined {len(whole)}; one episode more: seeds {seeds(second)}; lost: {', '.join(sorted(lost))}"
    )
    assert len(chosen) == 6 and len(whole) == 8 and seeds(second) == [5, 6, None]
    assert set(seeds(chosen)) == {None} and {"seed", "options", "rewards_sum"} <= lost
END
"$folder/venv/bin/python" "$folder/finding.py"
