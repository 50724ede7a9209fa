#!/usr/bin/env bash
# RLax 0.1.9, popart(): each target of a batch moves the mean and the second moment by step_size of its distance, and
# all of these moves are added up, over the batch and, with axis_name, over all devices. So an update of N targets has a
# step size of N * step_size, where an average was meant to move slowly: with 0.01, 100 targets leave nothing of what
# was there before but the last batch; more than 100 overshoot; and from 200 on the statistics diverge, each update
# further off on the other side, the variance turns negative and is cut to scale_lb, and the linear layer, which is
# rescaled to preserve its outputs, goes with them to infinity and NaN, within some hundred updates. The same job moved
# from one device to eight, 32 targets each, dies as well. With 3e-4 the limit is 6666 targets
# (a rollout of 128 steps in 64 environments has 8192). The documentation of step_size is "the step size for learning
# the scale & shift parameters"; losses are averaged over a batch, and so is what create_ema() of the same library
# follows, so that nothing else depends on the size of a batch like this. Nothing is raised. Guess: the batch's mean. To
# divide step_size by the number of all targets, on all devices, is the way around.
#
# Seen, of two states of which the returns are 4 and 6, with a deviation of 2, with step_size 0.01: "1 x 128 targets:
# shift 4.92, scale 1.87, values 3.98 and 6.00; finite for 1000 of 1000 updates"; "1 x 256 targets: shift nan, scale
# nan, values nan and nan; finite for 175 of 1000 updates", and the same of "8 x 32 targets"; with step_size 0.01 / 256
# both are "shift 5.00, scale 2.23, values 3.99 and 6.02; finite for 1000 of 1000 updates".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rlax==0.1.9 jax==0.10.2 jaxlib==0.10.2 distrax==0.1.9 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import jax
import jax.numpy as jnp
import numpy as np
import rlax

UPDATES, RETURNS, DEVIATION = 1000, np.array([4.0, 6.0]), 2.0


def learned(devices, size, step_size):
    """Values of two states, learned by gradient descent from noisy returns that PopArt normalizes."""
    initial, update = rlax.popart(1, step_size, scale_lb=1e-4, scale_ub=1e6, axis_name="devices")
    none = jnp.zeros(size, int)

    def loss(params, state, seen, targets):
        said = (seen @ params["w"] + params["b"])[:, 0]
        return 0.5 * jnp.mean((said - rlax.normalize(state, targets, none)) ** 2)

    @jax.jit
    def step(params, state, seen, targets):
        def one(seen, targets):
            new, after = update(params, state, targets, none)
            slopes = jax.lax.pmean(jax.grad(loss)(new, after, seen, targets), "devices")
            return jax.tree.map(lambda x, slope: x - 0.05 * slope, new, slopes), after

        return jax.tree.map(lambda x: x[0], jax.vmap(one, axis_name="devices")(seen, targets))  # all have the same

    random = np.random.default_rng(1)
    params, state, finite = {"w": jnp.zeros((2, 1)), "b": jnp.zeros(1)}, initial(), 0
    for _ in range(UPDATES):
        which = random.integers(2, size=(devices, size))
        targets = random.normal(RETURNS[which], DEVIATION)
        params, state = step(params, state, jnp.eye(2)[which], jnp.asarray(targets, jnp.float32))
        finite += bool(jnp.isfinite(params["b"]).all())
    values = rlax.unnormalize_linear(state, params["w"] + params["b"], jnp.zeros(2, int)).unnormalized
    return float(state.shift[0]), float(state.scale[0]), np.asarray(values), finite


def report(devices, size, step_size, told):
    shift, scale, values, finite = learned(devices, size, step_size)
    print(
        f"{devices} x {size} targets, step_size {told}: shift {shift:.2f}, scale {scale:.2f}, values {values[0]:.2f} "
        f"and {values[1]:.2f}; finite for {finite} of {UPDATES} updates"
    )
    return abs(shift - 5) < 0.5 and abs(scale - 5**0.5) < 0.5 and np.allclose(values, RETURNS, atol=0.5)


assert report(1, 32, 0.01, "0.01") and report(1, 128, 0.01, "0.01")
assert not report(1, 256, 0.01, "0.01") and not report(8, 32, 0.01, "0.01")
assert report(1, 256, 0.01 / 256, "0.01 / 256") and report(8, 32, 0.01 / 256, "0.01 / 256")
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
