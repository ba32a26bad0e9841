"""Writes tests/golden/ddim.json: timesteps, alphas and single steps of diffusers' schedulers.

    python tools/golden/ddim.py        (made with diffusers 0.42, torch 2)

Each case is a scheduler_config.json as a model would ship it, whatever class it names. The chain is that of
DDIMScheduler.from_config(<that class>.from_config(json).config), or of LCMScheduler where the file names it. Steps are
computed in f64 from the scheduler's own f32 table, so that they can be held to f64 accuracy.
"""

import json
import pathlib
import warnings

import diffusers
import diffusers.schedulers.scheduling_lcm as lcm
import torch

warnings.filterwarnings("ignore")
diffusers.logging.set_verbosity_error()

SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000)
SD15 = dict(SD, _class_name="PNDMScheduler", clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True,
            steps_offset=1, trained_betas=None)
SDXL = dict(SD, _class_name="EulerDiscreteScheduler", clip_sample=False, interpolation_type="linear",
            prediction_type="epsilon", sample_max_value=1.0, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1,
            timestep_spacing="leading", trained_betas=None, use_karras_sigmas=False)
SD21 = dict(SD, _class_name="DDIMScheduler", clip_sample=False, prediction_type="v_prediction", set_alpha_to_one=False,
            skip_prk_steps=True, steps_offset=1, trained_betas=None)
DPM = dict(SD, _class_name="DPMSolverMultistepScheduler", algorithm_type="dpmsolver++", solver_order=2, clip_sample=False)
LCM = dict(_class_name="LCMScheduler", beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085,
           clip_sample=False, num_train_timesteps=1000, original_inference_steps=50, prediction_type="epsilon",
           set_alpha_to_one=True, steps_offset=0, thresholding=False, trained_betas=None)

CASES = [
    (SD15, 100, 1.0), (SD15, 50, 1.0), (SD15, 7, 0.3), (SD15, 1, 1.0), (SD15, 999, 0.5),
    (SDXL, 100, 1.0), (SDXL, 30, 0.0),
    (SD21, 50, 1.0),
    (DPM, 20, 1.0),
    (LCM, 8, 0.5), (LCM, 4, 1.0), (LCM, 7, 0.5), (LCM, 50, 0.5), (LCM, 1, 0.5),
    (dict(LCM, prediction_type="v_prediction"), 4, 1.0),
    (dict(_class_name="DDIMScheduler"), 10, 1.0),
    (dict(_class_name="DDIMScheduler", clip_sample_range=0.5), 13, 0.7),
    (dict(_class_name="DDIMScheduler", beta_schedule="squaredcos_cap_v2", clip_sample=False), 40, 1.0),
    (dict(_class_name="DDIMScheduler", beta_schedule="squaredcos_cap_v2", prediction_type="sample"), 25, 0.5),
    (dict(SD15, timestep_spacing="trailing"), 30, 1.0), (dict(SD15, timestep_spacing="trailing"), 100, 1.0),
    (dict(SD15, timestep_spacing="trailing"), 61, 1.0), (dict(SD15, timestep_spacing="trailing"), 128, 1.0),
    (dict(SD15, timestep_spacing="linspace"), 100, 1.0), (dict(SD15, timestep_spacing="linspace"), 33, 1.0),
    (dict(SD15, timestep_spacing="linspace"), 1, 1.0), (dict(SD15, timestep_spacing="linspace"), 1000, 1.0),
    (dict(SD21, timestep_spacing="trailing", rescale_betas_zero_snr=True), 20, 1.0),
    (dict(SD21, rescale_betas_zero_snr=True, prediction_type="sample", clip_sample=False), 20, 1.0),
    (dict(_class_name="DDIMScheduler", num_train_timesteps=200, beta_end=0.05, clip_sample=False), 37, 0.8),
    (dict(_class_name="DDIMScheduler", num_train_timesteps=8, clip_sample=False, set_alpha_to_one=False,
          trained_betas=[0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5]), 4, 1.0),
]
PROBES = [0, 1, 2, 3, 10, 50, 333, 500, 501, 777, 991, 998, 999]


def scheduler(config):
    made = getattr(diffusers, config["_class_name"]).from_config(config)
    return made if config["_class_name"] == "LCMScheduler" else diffusers.DDIMScheduler.from_config(made.config)


def case(config, steps, eta):
    s = scheduler(config)
    table = s.alphas_cumprod
    s.set_timesteps(steps)
    out = dict(config=config, steps=steps, eta=eta, timesteps=[int(t) for t in s.timesteps],
               alphas_cumprod=[[i, float(table[i])] for i in PROBES if i < len(table)], moves=[])
    s.alphas_cumprod = table.double()
    s.final_alpha_cumprod = s.final_alpha_cumprod.double()
    gen = torch.Generator().manual_seed(steps)
    for k in sorted({0, steps // 3, steps - 1}):
        x, model, z = torch.randn(3, 4, generator=gen, dtype=torch.float64)
        t = int(s.timesteps[k])
        if isinstance(s, diffusers.LCMScheduler):
            lcm.randn_tensor = lambda *a, **kw: z
            s._step_index = k
            r = s.step(model, t, x)
            x0 = r.denoised
        else:
            r = s.step(model, t, x, eta=eta, variance_noise=z)
            x0 = r.pred_original_sample
        out["moves"].append(dict(k=k, x=x.tolist(), out=model.tolist(), z=z.tolist(), x0=x0.tolist(),
                                 prev=r.prev_sample.tolist()))
    return out


if __name__ == "__main__":
    path = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "ddim.json"
    cases = [case(*c) for c in CASES]
    path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    print(path, path.stat().st_size)
