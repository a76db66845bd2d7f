"""Declare the options of all scripts, each once, with the published names and defaults."""

import dataclasses
from pathlib import Path

from nsff import option_groups as opt

VARIANTS = ("paper", "wild")
FIELDS = ("mlp", "hash")
SCHEDULES = ("published", "scaled")
PATHS = ("bullet_time_loop", "spiral", "lemniscate", "dolly", "orbit", "fixed", "train")
TIMES = ("fixed", "run", "slowmo")
PROTOCOL_NAMES = ("nsff", "nsff-fixed", "dynamicnerf", "view0", "dynibar", "dycheck")
DEFAULT_FPS = 30.0  # of videos whose camera path has none of its own
AUTO_WARM_STEPS = 800  # of the warm start where it is on by default


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of all scripts. Defaults that depend on `variant` or `field` are those of `paper` and `mlp`."""

    config: str = opt.scene(
        "", "file of `key = value` lines; a relative path is tried from here, then from the repository root"
    )
    expname: str = opt.scene("", "name of the experiment (its folder under basedir)")
    basedir: str = opt.scene("./logs/", "folder of all experiments")
    datadir: str = opt.scene("./data/llff/fern", "the `dense` folder of the scene")
    start_frame: int = opt.scene(0, "index of the first frame used")
    end_frame: int = opt.scene(30, "index after the last frame used (50 in wild), at most the length of the sequence")
    final_height: int = opt.scene(
        288, "training height in pixels; frames are read from images_<width>x<final_height>", least=1
    )
    bd_factor: float = opt.scene(
        0.9,
        "near plane as a fraction of the nearest static depth; lower it if moving objects come closer to the camera",
        least=0.05,
        why="the near plane must lie in front of the nearest objects",
    )
    cache_gb: str = opt.scene(
        "auto", "GB of frames and priors above which they are memory-mapped (DATA/.cache_...): a number, or auto: 1 on "
        "a CPU, a quarter of the free memory of a GPU",
    )  # fmt: skip
    no_ndc: bool = opt.scene(False, "let the fields live in contracted space instead of NDC: for cameras that turn")
    force_ndc: bool = opt.scene(False, "train in NDC although cameras of the video see what it cannot represent")
    lindisp: bool = opt.scene(False, "with no_ndc: samples linear in disparity, as they always are")
    target_idx: int = opt.scene(10, "frame around which novel views are rendered, counted from start_frame")

    variant: str = opt.field(
        "paper", "published variant of the method; if not given, chain_sf or w_entropy select wild", choices=VARIANTS
    )
    field: str = opt.field(
        "mlp",
        "architecture of the fields: mlp, the published networks, or hash, multi-resolution hash grids",
        choices=FIELDS,
    )
    netdepth: int = opt.field(
        8, "mlp: layers of the trunk (at least 6)", least=6, why="the skip connection enters at layer 5"
    )
    netwidth: int = opt.field(256, "mlp: channels per layer (even)", least=2)
    multires: int = opt.field(10, "mlp: frequencies of the positional encoding of points")
    multires_views: int = opt.field(4, "frequencies of the positional encoding of view directions")
    use_viewdirs: bool = opt.field(
        False, "let colour depend on the view direction; required, other fields are not supported"
    )

    hash_levels: int = opt.field(8, "hash: resolution levels per grid", least=1, most=32)
    hash_log2_rows: int = opt.field(18, "hash: log2 of the maximum number of table rows per level", least=4, most=26)
    hash_features: int = opt.field(2, "hash: features per table row", least=1, most=8)
    hash_finest: int = opt.field(1024, "hash: cells per axis at the finest level, static field", least=16, most=65536)
    hash_dynamic_finest: int = opt.field(512, "hash: the same, dynamic field", least=16, most=65536)
    hash_time: float = opt.field(2.0, "hash: cells per frame along time at the finest level", least=0.01, most=16)
    hash_width: int = opt.field(
        64, "hash: channels per layer of the small networks that decode grid features", least=1, most=1024
    )
    hash_coarse_samples: int = opt.field(
        32, "hash: samples per ray of the coarse pass; 0 = no coarse pass, N_samples uniform samples"
    )
    hash_samples: int = opt.field(
        24, "hash: samples per ray drawn from the coarse density (instead of N_samples)", least=4, most=4096
    )

    N_iters: int = opt.train(500_000, "training steps in total (2000000 in wild, 30000 with hash)")
    max_minutes: float = opt.train(0.0, "minutes of training after which to stop, over all runs; 0 = no limit")
    schedule: str = opt.train(
        "published", "published: stages last fixed numbers of steps; scaled: they scale with the length of the run "
        "(default of hash)",
        choices=SCHEDULES,
    )  # fmt: skip
    N_rand: int = opt.train(4096, "rays per step, drawn uniformly from a frame", least=1)
    num_extra_sample: int = opt.train(512, "extra rays per step from the motion mask while step < D (decay_iteration)")
    use_motion_mask: bool = opt.train(False, "draw the num_extra_sample rays from the motion mask")
    background_rays: int = opt.train(
        0, "rays per step from outside the motion masks of all frames; they train only the static field (not published)"
    )
    N_samples: int = opt.train(64, "samples per ray", least=4, why="the smoothness terms need neighbours along the ray")
    perturb: float = opt.train(1.0, "1 = jitter sample depths within their intervals while training, 0 = do not")
    raw_noise_std: float = opt.train(0.0, "standard deviation of the noise added to raw density while training")
    warm_steps: str = opt.train(
        "auto", "steps of the warm start, which fits the fields to lifted depth and flow before rays are rendered: a "
        "number, or auto: with hash on the scaled schedule as long as depth is believed, else none (not published)",
    )  # fmt: skip
    prior_samples: int = opt.train(
        8, "hash on the scaled schedule: samples per ray around the depth prior, at most a third of the "
        "hash_samples (not published)",
    )  # fmt: skip
    lrate: float = opt.train(5e-4, "learning rate")
    lrate_decay: int = opt.train(250, "thousands of steps in which lrate falls to a tenth (300 in wild)", least=1)
    decay_iteration: int = opt.train(50, "stage length D, in thousands of steps", least=1)
    chain_sf: bool = opt.train(
        False, "wild: also warp from frames two steps away, beyond step 2D (paper always does, from D)"
    )
    seed: int = opt.train(0, "seed of all random generators")
    device: str = opt.train("auto", "compute device", choices=("auto", "cpu", "cuda"))
    gpus: str | None = opt.train(
        None, "GPUs of this machine to train, render or evaluate on, one process each: a number, or all "
        "(with --device cpu: number of processes)",
    )  # fmt: skip
    amp: bool = opt.train(False, "mixed precision on CUDA: bfloat16 matrix products, float32 compositing")
    cuda_factor: int = opt.train(
        8, "on CUDA, multiply rays and points of a step (scaled schedule) and netchunk (hash) by this", least=1
    )
    no_cuda_graphs: bool = opt.train(False, "launch the kernels of a training step one by one, to look for errors")
    no_reload: bool = opt.train(False, "insist on a fresh start: refuse an experiment that has checkpoints")
    ft_path: str | None = opt.train(
        None, "training starts from this checkpoint if the experiment has none; renders and evaluations always take it"
    )

    w_depth: float = opt.loss(0.04, "weight of the depth prior loss")
    w_optical_flow: float = opt.loss(0.02, "weight of the optical flow prior loss")
    w_sm: float = opt.loss(0.1, "weight of scene flow smoothness, spatial and temporal (least kinetic energy)")
    w_sf_reg: float = opt.loss(0.01, "weight of the mean absolute scene flow (0.1 in wild)")
    w_cycle: float = opt.loss(0.1, "weight of scene flow cycle consistency")
    w_prob_reg: float = opt.loss(0.1, "weight of the regularisation of disocclusion probabilities")
    w_entropy: float = opt.loss(1e-3, "wild: weight of the entropy of the blend weight")
    w_distortion: float = opt.loss(
        0.0, "weight of the distortion loss, which concentrates the dynamic field along each ray (not published)"
    )
    w_line_of_sight: float = opt.loss(
        0.1, "hash on the scaled schedule: weight of the line-of-sight loss, which empties the dynamic field before "
        "the depth prior and draws its depth there (not published)",
    )  # fmt: skip
    w_split: float = opt.loss(0.0, "weight of the loss on dynamic weight outside the motion masks (not published)")
    decay_depth_w: bool = opt.loss(False, "divide w_depth by 10 at every multiple of D")
    decay_optical_flow_w: bool = opt.loss(False, "divide w_optical_flow by 10 at every multiple of D")

    i_print: int = opt.log(500, "steps between TensorBoard scalars (1000 in wild)", least=1)
    i_img: int = opt.log(500, "steps between full-size TensorBoard images; 0 = none (1000 in wild)")
    i_weights: int = opt.log(10000, "steps between checkpoints", least=1)
    save_minutes: float = opt.log(0.0, "minutes of training between checkpoints, beside those of i_weights; 0 = none")
    keep_checkpoints: int = opt.log(0, "keep only this many of the checkpoints that a run writes, the newest; 0 = all")
    i_val: int = opt.log(
        0, "steps between evaluations of a few held-out views of the protocol, logged to TensorBoard; 0 = none"
    )

    render_bt: bool = opt.render(False, "render bullet time: the camera circles while time stands still at target_idx")
    render_lockcam_slowmo: bool = opt.render(False, "render slow motion from the fixed camera of target_idx")
    render_slowmo_bt: bool = opt.render(False, "render slow motion from a moving camera")
    path: str | None = opt.render(
        None,
        "also render a video along this path around the camera of target_idx (train: the path of the input video)",
        choices=PATHS,
    )
    time: str | None = opt.render(
        None, "time along path and camera_path: fixed at target_idx, run frame by frame, or slowmo, between frames too "
        "(default: run with path fixed or train, else fixed)", choices=TIMES,
    )  # fmt: skip
    frames: int = opt.render(
        0, "frames of the video along path; 0 = 60, or the number that times and slowmo_factor give"
    )
    path_radius: float = opt.render(
        48.0,
        "radius of camera paths: shift in pixels of a point on the near plane (depth 1); lower it for small frames",
        least=1,
    )
    times: str | None = opt.render(
        None, "first and last frame when time runs, e.g. 3:8 (default: all, or as published)"
    )
    slowmo_factor: int = opt.render(0, "timestamps per input frame; 0 = 10 in slow motion, 1 in the viewer")
    camera_path: str | None = opt.render(None, "also render along the cameras of this file (nerfstudio's JSON format)")
    layers: str = opt.render("rgb", "outputs to write, a list of rgb,depth,static,dynamic,blend,flow,side_by_side")
    raw_depth: bool = opt.render(
        False, "also save depth per pixel (depth_raw/000.npz, in the units of poses_bounds.npy)"
    )
    format: str = opt.render("mp4", "formats to write, a list of mp4,gif,png,jpg; frames are always kept")
    render_factor: int = opt.render(0, "factor by which to divide the render size, for speed; 0 = full size")
    image_ext: str = opt.render(
        "jpg", "format of frames if format names none (jpg has quality 95)", choices=("jpg", "png")
    )
    fps: float | None = opt.render(None, f"frames per second (default: of --camera_path, or {DEFAULT_FPS:g})", least=1)
    chunk: int = opt.render(1024 * 128, "maximum number of rays rendered at once")
    netchunk: int = opt.render(1024 * 128, "maximum number of points evaluated at once when rendering")

    planes: int = opt.viewer(32, "layers of depth, from the near plane to infinity", least=4, most=256)
    margin: float = opt.viewer(
        0.15, "fraction of the width by which the layers go beyond the image on each side", most=1
    )
    max_mb: float = opt.viewer(60.0, "largest size of the page, megabytes")
    viewer_every: int = opt.viewer(0, "training: steps between refreshes of the page at a small size; 0 = none")

    protocol: str = opt.evaluate(
        "nsff", "evaluation protocol: which views are held out and how they are compared", choices=PROTOCOL_NAMES
    )
    every: int = opt.evaluate(1, "evaluate only one view in this many, for quick results")
    allow_missing: bool = opt.evaluate(False, "skip views whose files are missing, with a warning")
    heldout: str | None = opt.evaluate(
        None, "protocols dynamicnerf and view0: folder of images seen from the camera of frame 0, named by frame, "
        "as 00003.png or v000_t003.png",
    )  # fmt: skip
    lpips_trunk: str | None = opt.evaluate(
        None, "AlexNet weights file in torchvision's format; default: torchvision downloads it"
    )
    save_renders: bool = opt.evaluate(False, "save the rendered views as png files beside the metrics")

    bench_steps: int = opt.bench(3, "number of training steps to time, after one warm-up step")
    compare: str | None = opt.bench(None, "fields to compare, each in its own process: mlp, hash, hash_without_priors")
    bench_minutes: float = opt.bench(
        0.0, "minutes of training during which to evaluate the protocol's views; 0 = do not train"
    )
    bench_plot: str | None = opt.bench(None, "image file for a plot of PSNR against training time")
    report: str | None = opt.bench(None, "JSON file for a report on this machine: tests of its GPU, costs, quality")
    bench_json: str | None = opt.bench(None, "JSON file for the measurements")

    N_importance: int = opt.fixed(0, "no second, fine network; for importance sampling see hash_coarse_samples")
    dataset_type: str = opt.fixed("llff", "the only supported layout of a scene folder")
    spherify: bool = opt.fixed(False, "scenes are forward-facing")
    white_bkgd: bool = opt.fixed(False, "scenes have no white background")
    i_embed: int = opt.fixed(0, "positional encoding is always on")

    factor: int = opt.unused(8, "final_height sets the image size")
    no_batching: bool = opt.unused(False, "the rays of a step always come from one frame")
    netdepth_fine: int = opt.unused(8, "the method has no fine network")
    netwidth_fine: int = opt.unused(256, "the method has no fine network")
    render_test: bool = opt.unused(False, "not part of the method")
    render_dynamics_slowmo: bool = opt.unused(False, "belongs to the authors' earliest code")
    render_paths: bool = opt.unused(False, "belongs to the authors' earliest code")
    ndc_depth: bool = opt.unused(False, "belongs to the authors' earliest code")
    testskip: int = opt.unused(8, "for other data sets")
    shape: str = opt.unused("greek", "for other data sets")
    half_res: bool = opt.unused(False, "for other data sets")
    llffhold: int = opt.unused(8, "no frame of the video is held out")
    i_testset: int = opt.unused(50000, "use evaluation.py")
    i_video: int = opt.unused(50000, "use --render_bt")

    # Not an option: number of frames of the sequence in datadir, set by load_config; None if it has no poses yet.
    sequence_length: int | None = None

    @property
    def experiment_dir(self) -> Path:
        """Folder `<basedir>/<expname>_F<start>-<end>`, as published; `expname` may include the suffix (`args.txt`)."""
        suffix = f"_F{self.start_frame:02d}-{self.end_frame:02d}"
        return Path(self.basedir) / (self.expname.removesuffix(suffix) + suffix)

    def points_per_chunk(self, device: str) -> int:
        """Points per render chunk on a type of device, `cpu` or `cuda`."""
        return self.netchunk * (self.cuda_factor if device == "cuda" and self.field == "hash" else 1)

    def rays_per_chunk(self, device: str) -> int:
        """Rays per render chunk on a type of device, at least one; `chunk` bounds them too."""
        points = max(self.hash_coarse_samples, self.hash_samples) if self.importance else self.N_samples
        return max(1, min(self.chunk, self.points_per_chunk(device) // points))

    def step_factor(self, device: str) -> int:
        """Factor on the rays and points of a training step on a type of device."""
        return self.cuda_factor if device == "cuda" and self.schedule == "scaled" else 1

    @property
    def importance(self) -> bool:
        """True if samples follow the density of a coarse pass instead of being uniform as published."""
        return self.field == "hash" and self.hash_coarse_samples > 0

    @property
    def lifts_priors(self) -> bool:
        """True if rays follow lifted depth and moving pixels are drawn in all stages: not published."""
        return self.field == "hash" and self.schedule == "scaled"

    @property
    def n_prior_samples(self) -> int:
        """Samples per ray around the depth prior, out of those that a ray has."""
        total = self.hash_samples if self.importance else self.N_samples
        return min(self.prior_samples, total // 3) if self.lifts_priors else 0

    @property
    def max_warm_steps(self) -> int:
        """Steps of the warm start, at most; `auto` resolved."""
        if self.warm_steps == "auto":
            return AUTO_WARM_STEPS if self.lifts_priors else 0
        return int(self.warm_steps)

    @property
    def frame_range(self) -> range:
        """Indices of the frames used: `start_frame` to `end_frame`, or to the end of the sequence."""
        end = self.end_frame if self.sequence_length is None else min(self.end_frame, self.sequence_length)
        return range(self.start_frame, end)

    @property
    def n_frames(self) -> int:
        return len(self.frame_range)


OPTIONS = tuple(option for option in dataclasses.fields(Config) if "group" in option.metadata)
