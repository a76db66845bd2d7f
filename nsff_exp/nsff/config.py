"""Every option of all scripts, declared once: names and defaults as published."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

VARIANTS = ("paper", "wild")
FIELDS = ("mlp", "hash")
SCHEDULES = ("published", "scaled")
PATHS = ("bullet_time_loop", "spiral", "lemniscate", "dolly", "fixed", "train")
TIMES = ("fixed", "run", "slowmo")
PROTOCOL_NAMES = ("nsff", "nsff-fixed", "dynamicnerf", "view0", "dynibar", "dycheck")
RENAMED_OPTIONS = {"hash_look": "hash_coarse_samples", "reach": "path_radius"}  # old names, still read
RENAMED_PATHS = {"wander": "bullet_time_loop"}
# Defaults of the two published commits where they differ; those of `paper` stand in `Config`.
VARIANT_DEFAULTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "wild": {
        "N_iters": 2_000_000,
        "lrate_decay": 300,
        "w_sf_reg": 0.1,
        "end_frame": 50,
        "i_print": 1000,
        "i_img": 1000,
    },
}
FIELD_DEFAULTS: dict[str, dict[str, Any]] = {"mlp": {}, "hash": {"schedule": "scaled", "N_iters": 30_000}}


def _option(default: Any, text: str, group: str, **extra: Any) -> Any:
    """A field of `Config`. `extra`: `choices`, or `least` and `most` of a number (0 and infinity), and `why`."""
    return dataclasses.field(default=default, metadata={"help": text, "group": group, **extra})


_scene = functools.partial(_option, group="scene")
_field = functools.partial(_option, group="fields")
_train = functools.partial(_option, group="training")
_loss = functools.partial(_option, group="losses")
_log = functools.partial(_option, group="logging and saving")
_render = functools.partial(_option, group="rendering")
_eval = functools.partial(_option, group="evaluation")
_bench = functools.partial(_option, group="benchmark")
# Accepted so that published files and commands work; named once in the log when given.
_unused = functools.partial(_option, group="accepted, without effect", unused=True)
# Only the published value is possible: any other is an error, never ignored.
_fixed = functools.partial(_option, group="accepted, one value only", fixed=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of all scripts. Defaults that depend on `variant` or `field` are those of `paper` and `mlp`."""

    config: str = _scene("", "file of `key = value` lines; looked up as typed, then under the repository root")
    expname: str = _scene("", "name of the experiment (folder name under basedir)")
    basedir: str = _scene("./logs/", "where experiments are kept")
    datadir: str = _scene("./data/llff/fern", "the `dense` folder of the scene")
    start_frame: int = _scene(0, "first frame used")
    end_frame: int = _scene(30, "one past the last frame used (50 in wild); cut to the sequence where that is shorter")
    final_height: int = _scene(
        288, "training height in pixels: frames are read from images_<W>x<final_height>", least=1
    )
    bd_factor: float = _scene(
        0.9,
        "near plane as a share of the nearest static depth: less where things move closer",
        least=0.05,
        why="the near plane must lie before the nearest things",
    )
    cache_gb: float = _scene(
        1.0, "frames and priors beyond so many GB stay on the disk (DATA/.cache_...), as memory-mapped files"
    )
    target_idx: int = _scene(10, "frame, counted from start_frame, where novel views start")

    variant: str = _field(
        "paper", "published variant of the method; without this key, chain_sf or w_entropy mean wild", choices=VARIANTS
    )
    field: str = _field("mlp", "what the fields are made of: the published networks or hash grids", choices=FIELDS)
    netdepth: int = _field(8, "layers of the trunk (at least 6)", least=6, why="layer 5 takes the encoded point again")
    netwidth: int = _field(256, "channels of a layer (even)", least=2)
    multires: int = _field(10, "frequencies of the encoding of points")
    multires_views: int = _field(4, "frequencies of the encoding of view directions")
    use_viewdirs: bool = _field(False, "colour depends on the view direction: must be on, other fields are not made")

    hash_levels: int = _field(8, "hash: levels of a grid", least=1, most=32)
    hash_log2_rows: int = _field(18, "hash: table rows of a level at most, as a power of 2", least=4, most=26)
    hash_features: int = _field(2, "hash: features a row", least=1, most=8)
    hash_finest: int = _field(1024, "hash: cells an axis of the finest level, static field", least=16, most=65536)
    hash_dynamic_finest: int = _field(
        512, "hash: cells an axis of the finest level, dynamic field", least=16, most=65536
    )
    hash_time: float = _field(1.0, "hash: time cells a frame of the finest level", least=0.01, most=16)
    hash_width: int = _field(64, "hash: channels of the layers behind the grids", least=1, most=1024)
    hash_coarse_samples: int = _field(
        32, "hash: depths a ray of a first look at both fields; 0 = N_samples uniform depths"
    )
    hash_samples: int = _field(
        24, "hash: depths a ray that then follow what the look found (instead of N_samples)", least=4, most=4096
    )

    N_iters: int = _train(500_000, "steps in all (2000000 in wild, 30000 with hash)")
    max_minutes: float = _train(0.0, "stop after so many minutes of training in all; 0 = no limit")
    schedule: str = _train(
        "published", "published: stages count steps; scaled: all follows the length of the run (hash)",
        choices=SCHEDULES,
    )  # fmt: skip
    N_rand: int = _train(4096, "uniform rays a step", least=1)
    num_extra_sample: int = _train(512, "rays a step drawn from the motion mask while step < D")
    use_motion_mask: bool = _train(False, "draw the extra rays")
    background_rays: int = _train(
        0, "rays a step from outside the motion masks of all frames, for the static field alone (not published)"
    )
    N_samples: int = _train(64, "depths a ray", least=4, why="the smoothness terms need neighbours along the ray")
    perturb: float = _train(1.0, "0 = no jitter of the depths")
    raw_noise_std: float = _train(0.0, "standard deviation of the noise on raw density while training")
    lrate: float = _train(5e-4, "learning rate")
    lrate_decay: int = _train(250, "learning rate falls to a tenth in so many thousand steps (300 in wild)", least=1)
    decay_iteration: int = _train(50, "stage length D in thousand steps", least=1)
    chain_sf: bool = _train(False, "variant wild: render from two frames away from step 2D on")
    seed: int = _train(0, "seed of all random draws")
    device: str = _train("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    gpus: str | None = _train(
        None, "train, render or evaluate on so many GPUs of this machine, one process each: a number, or all "
        "(with --device cpu: so many processes)",
    )  # fmt: skip
    amp: bool = _train(False, "mixed precision on CUDA (bfloat16 products, float32 compositing)")
    no_reload: bool = _train(False, "do not resume, start from step 0")
    ft_path: str | None = _train(None, "start from this checkpoint when there is none in the experiment")

    w_depth: float = _loss(0.04, "weight of the depth prior")
    w_optical_flow: float = _loss(0.02, "weight of the optical flow prior")
    w_sm: float = _loss(0.1, "weight of smoothness and of least kinetic motion")
    w_sf_reg: float = _loss(0.01, "weight of the scene flow magnitude (0.1 in wild)")
    w_cycle: float = _loss(0.1, "weight of the scene flow cycle")
    w_prob_reg: float = _loss(0.1, "weight of the disocclusion probability")
    w_entropy: float = _loss(1e-3, "variant wild: weight of the entropy of the blend weight")
    w_distortion: float = _loss(0.0, "weight of the spread of the dynamic field along a ray (not published)")
    w_split: float = _loss(0.0, "weight of the dynamic field's share outside the motion masks (not published)")
    decay_depth_w: bool = _loss(False, "divide w_depth by 10 at every multiple of D")
    decay_optical_flow_w: bool = _loss(False, "divide w_optical_flow by 10 at every multiple of D")

    i_print: int = _log(500, "steps between TensorBoard scalars (1000 in wild)", least=1)
    i_img: int = _log(500, "steps between TensorBoard images, full size; 0 = none (1000 in wild)")
    i_weights: int = _log(10000, "steps between checkpoints", least=1)
    i_val: int = _log(0, "steps between evaluations of a few held-out views of protocol, into TensorBoard; 0 = none")

    render_bt: bool = _render(False, "bullet time: the camera circles at the time of target_idx")
    render_lockcam_slowmo: bool = _render(False, "slow motion seen from the camera of target_idx")
    render_slowmo_bt: bool = _render(False, "slow motion and moving camera")
    path: str | None = _render(
        None, "also a clip along this path around the camera of target_idx ('train': that of the video)", choices=PATHS
    )
    time: str | None = _render(
        None, "times of path and camera_path: that of target_idx, frame by frame, or between frames as well "
        "(default: run with the paths fixed and train, else fixed)", choices=TIMES,
    )  # fmt: skip
    frames: int = _render(0, "frames of the clip along path; 0 = 60, or as many as times and slowmo_factor give")
    path_radius: float = _render(
        48.0,
        "how far cameras circle: pixels that a thing at depth 1, the near plane, shifts; less for small frames",
        least=1,
    )
    times: str | None = _render(None, "first and last frame of what runs, like 3:8; default: all, or as published")
    slowmo_factor: int = _render(10, "slow motion: moments from each frame to the next", least=1)
    camera_path: str | None = _render(None, "also a clip along the cameras of this file (nerfstudio's JSON format)")
    layers: str = _render("rgb", "what is written, of rgb,depth,static,dynamic,blend,flow,side_by_side")
    raw_depth: bool = _render(False, "keep the distance of every pixel (depth_raw/000.npz, units of poses_bounds.npy)")
    format: str = _render("mp4", "what clips are written as, of mp4,gif,png,jpg; frames are kept in any case")
    render_factor: int = _render(0, "divide the render size by this, for speed; 0 = full size")
    image_ext: str = _render(
        "jpg", "format of frames where format names none (jpg: quality 95)", choices=("jpg", "png")
    )
    fps: float = _render(30.0, "frames a second of the videos", least=1)
    chunk: int = _render(1024 * 128, "most rays rendered at once")
    netchunk: int = _render(1024 * 128, "most points given to a field at once when rendering")

    protocol: str = _eval("nsff", "held-out views and the rules of their comparison", choices=PROTOCOL_NAMES)
    every: int = _eval(1, "evaluate every so manyth view only, for a quick look")
    allow_missing: bool = _eval(False, "views without their files are no error, only left out and named")
    heldout: str | None = _eval(
        None, "protocols dynamicnerf and view0: folder of frames seen from the camera of frame 0, named by their time, "
        "00003.png or v000_t003.png",
    )  # fmt: skip
    lpips_trunk: str | None = _eval(None, "file of AlexNet weights (torchvision's); default: torchvision's download")
    save_renders: bool = _eval(False, "keep the rendered views as png files beside the metrics")

    bench_steps: int = _bench(3, "training steps to time, after one that is not timed")
    compare: str | None = _bench(None, "fields to measure side by side, each in its own process: mlp,hash")
    bench_minutes: float = _bench(0.0, "also train for so many minutes and score the protocol's views along the way")
    bench_plot: str | None = _bench(None, "draw PSNR against time into this file")
    bench_json: str | None = _bench(None, "write the figures to this file")

    N_importance: int = _fixed(0, "hierarchical sampling is not part of the method")
    dataset_type: str = _fixed("llff", "the layout of the scene folder")
    no_ndc: bool = _fixed(False, "the method lives in NDC")
    lindisp: bool = _fixed(False, "NDC depth is already linear in disparity")
    spherify: bool = _fixed(False, "scenes are forward-facing")
    white_bkgd: bool = _fixed(False, "scenes have no white background")
    i_embed: int = _fixed(0, "positional encoding is always on")

    factor: int = _unused(8, "final_height decides the size")
    no_batching: bool = _unused(False, "rays always come from one frame a step")
    netdepth_fine: int = _unused(8, "there is no fine network")
    netwidth_fine: int = _unused(256, "there is no fine network")
    render_test: bool = _unused(False, "not part of the method")
    render_dynamics_slowmo: bool = _unused(False, "of the authors' earliest code")
    render_paths: bool = _unused(False, "of the authors' earliest code")
    ndc_depth: bool = _unused(False, "of the authors' earliest code")
    testskip: int = _unused(8, "for other data sets")
    shape: str = _unused("greek", "for other data sets")
    half_res: bool = _unused(False, "for other data sets")
    llffhold: int = _unused(8, "no frame of the video is held out")
    i_testset: int = _unused(50000, "use evaluation.py")
    i_video: int = _unused(50000, "use --render_bt")

    # Not an option: frames of the sequence in datadir, found by load_config; None where it has no poses yet.
    sequence_length: int | None = None

    @property
    def experiment_dir(self) -> Path:
        """`<basedir>/<expname>_F<start>-<end>`, the published folder name; an `args.txt` names it with its suffix."""
        suffix = f"_F{self.start_frame:02d}-{self.end_frame:02d}"
        return Path(self.basedir) / (self.expname.removesuffix(suffix) + suffix)

    @property
    def rays_per_chunk(self) -> int:
        """Rays of a render chunk: at most `chunk`, and `netchunk` points."""
        points = max(self.hash_coarse_samples, self.hash_samples) if self.importance else self.N_samples
        return max(1, min(self.chunk, self.netchunk // points))

    @property
    def importance(self) -> bool:
        """Whether the depths of a ray follow a first look, instead of being uniform as published."""
        return self.field == "hash" and self.hash_coarse_samples > 0

    @property
    def frame_range(self) -> range:
        """Indices of the frames used: `start_frame` to `end_frame`, or to the end of the sequence."""
        end = self.end_frame if self.sequence_length is None else min(self.end_frame, self.sequence_length)
        return range(self.start_frame, end)

    @property
    def n_frames(self) -> int:
        return len(self.frame_range)


OPTIONS = tuple(option for option in dataclasses.fields(Config) if "group" in option.metadata)
