"use strict";
// Composite the layers of a scene from a camera near the reference camera: one textured quad per tile, far to near.
// SCENE: size, cameras, depths of the layers; PARTS: tiles of the static field, and of the dynamic one at each time.

const VERTEX = `#version 300 es
in vec2 pixel, texel;  // corner of a tile in the reference image and in its atlas
uniform mat3 referenceAxes, toCamera;
uniform vec3 referenceCentre, centre, referenceFocal, lens;
uniform float plane;  // z of the layer in the scene
out vec3 place;
void main() {
  vec3 ray = referenceAxes * vec3((pixel - referenceFocal.yz) / referenceFocal.x * vec2(1, -1), -1);
  float distance = (plane - referenceCentre.z) / ray.z;
  vec3 point = toCamera * (referenceCentre + distance * ray - centre);
  // Pixel centres lie at integers, half a pixel off those of the canvas.
  gl_Position = vec4(point.xy * 2.0 * lens.x / lens.yz - point.z * vec2(1, -1) / lens.yz, 0, -point.z);
  place = vec3(texel * distance, distance);  // linear on the plane, unlike the texel itself
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec3 place;
uniform sampler2D atlas;
uniform float nearness;  // of the layer, 0..1; below 0 = show its colour
out vec4 result;
vec3 heat(float x) {
  return clamp(vec3(1.7 * x, 2.2 * x * x - 0.1, 0.45 + 1.2 * x - 3.0 * x * x + 1.8 * x * x * x), 0.0, 1.0);
}
void main() {
  vec4 value = texture(atlas, place.xy / place.z);
  result = vec4((nearness < 0.0 ? value.rgb : heat(nearness)) * value.a, value.a);
}`;

const element = (name) => document.getElementById(name);
const canvas = element("view");
const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, preserveDrawingBuffer: true });

function base64ToBytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// Vector and matrix helpers; poses are rows of (right, up, back, centre).
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((x) => x / Math.hypot(...a));
const axis = (pose, k) => [pose[0][k], pose[1][k], pose[2][k]];

/** The camera at an offset (right, up, back) from the reference camera, in units of the reach, aimed at its focus. */
function cameraAt(offset) {
  const reference = SCENE.reference, start = axis(reference, 3);
  const move = (vector) => [0, 1, 2].map((i) => reference[i].slice(0, 3).reduce((sum, x, k) => sum + x * vector[k], 0));
  const shift = move(offset.map((x) => x * SCENE.reach)), centre = start.map((x, i) => x + shift[i]);
  const aim = start.map((x, i) => x - SCENE.focus * reference[i][2]);
  const back = unit(centre.map((x, i) => x - aim[i]));
  const right = unit(cross(axis(reference, 1), back)), up = cross(back, right);
  return [0, 1, 2].map((i) => [right[i], up[i], back[i], centre[i]]);
}

/** Bound an offset gently: as it is near the middle, never beyond the reach. */
function bounded(offset) {
  const length = Math.hypot(...offset);
  const scale = length > 0.8 ? (0.8 + 0.2 * Math.tanh((length - 0.8) / 0.2)) / length : 1;
  return offset.map((x) => x * scale);
}

class Renderer {
  constructor() {
    const program = (this.program = gl.createProgram());
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    this.uniform = (name) => gl.getUniformLocation(program, name);
    const columns = (pose) => [0, 1, 2].flatMap((k) => axis(pose, k));
    gl.uniformMatrix3fv(this.uniform("referenceAxes"), false, columns(SCENE.reference));
    gl.uniform3fv(this.uniform("referenceCentre"), axis(SCENE.reference, 3));
    gl.uniform3f(this.uniform("referenceFocal"), SCENE.focal, SCENE.wide[0] / 2, SCENE.wide[1] / 2);
    gl.uniform3f(this.uniform("lens"), SCENE.focal, SCENE.width, SCENE.height);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.parts = {};
  }

  /** Decode a part and put it on the GPU. */
  async load(name) {
    const part = PARTS[name];
    const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
    const picture = await createImageBitmap(new Blob([base64ToBytes(part.webp)], { type: "image/webp" }), options);
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
    for (const [key, value] of [["MIN_FILTER", "LINEAR"], ["MAG_FILTER", "LINEAR"], ["WRAP_S", "CLAMP_TO_EDGE"],
                                ["WRAP_T", "CLAMP_TO_EDGE"]])
      gl.texParameteri(gl.TEXTURE_2D, gl[`TEXTURE_${key}`], gl[value]);
    const places = new Uint16Array(base64ToBytes(part.places).buffer);
    this.parts[name] = { texture, ...this.corners(places, picture.width, picture.height) };
    delete PARTS[name];
  }

  /** Corners of all tiles, six a tile, and for each layer the first tile and the number of tiles. */
  corners(places, width, height) {
    const { tile, border } = SCENE, packed = tile + 2 * border, perRow = width / packed, n = places.length / 3;
    const corners = new Float32Array(n * 24), layers = new Map();
    for (let k = 0; k < n; k++) {
      const [layer, row, column] = places.subarray(3 * k, 3 * k + 3);
      if (!layers.has(layer)) layers.set(layer, [k, 0]);
      layers.get(layer)[1]++;
      const left = (k % perRow) * packed + border, top = Math.floor(k / perRow) * packed + border;
      [[0, 0], [1, 0], [0, 1], [0, 1], [1, 0], [1, 1]].forEach(([x, y], corner) => {
        const texel = [(left + x * tile) / width, (top + y * tile) / height];
        corners.set([(column + x) * tile - 0.5, (row + y) * tile - 0.5, ...texel], 24 * k + 4 * corner);
      });
    }
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, corners, gl.STATIC_DRAW);
    for (const [name, offset] of [["pixel", 0], ["texel", 8]]) {
      const location = gl.getAttribLocation(this.program, name);
      gl.enableVertexAttribArray(location);
      gl.vertexAttribPointer(location, 2, gl.FLOAT, false, 16, offset);
    }
    return { array, layers };
  }

  draw(pose, names, showDepth) {
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniformMatrix3fv(this.uniform("toCamera"), false, [0, 1, 2].flatMap((i) => pose[i].slice(0, 3)));
    gl.uniform3fv(this.uniform("centre"), axis(pose, 3));
    const parts = names.map((name) => this.parts[name]).filter((part) => part);
    for (let layer = SCENE.depths.length - 1; layer >= 0; layer--) {
      const here = parts.filter((part) => part.layers.has(layer));
      gl.uniform1f(this.uniform("plane"), -1 / (1 - SCENE.depths[layer]));
      gl.uniform1f(this.uniform("nearness"), showDepth ? 1 - SCENE.depths[layer] : -1);
      for (const part of here) {  // the dynamic layer lies over the static one
        const [first, count] = part.layers.get(layer);
        gl.bindVertexArray(part.array);
        gl.bindTexture(gl.TEXTURE_2D, part.texture);
        gl.drawArrays(gl.TRIANGLES, 6 * first, 6 * count);
      }
    }
  }
}

const state = { offset: [0, 0, 0], moment: 0, elapsed: 0, angle: 0, recorded: [] };
const pressed = (name) => element(name).getAttribute("aria-pressed") === "true";
const press = (name, value) => element(name).setAttribute("aria-pressed", String(value));
let renderer, previous = 0, dirty = true;

function currentPose() {
  const [a, m] = [state.angle, SCENE.circle];
  const circling = pressed("circle") ? [-m * Math.sin(a), (-m * Math.cos(a)) / 3, (-m * Math.cos(a)) / 3] : [0, 0, 0];
  const offset = state.offset.map((x, i) => x + circling[i]), length = Math.hypot(...offset);
  return cameraAt(offset.map((x) => x / Math.max(1, length)));
}

function setMoment(moment) {
  const last = SCENE.timestamps.length - 1;
  state.moment = Math.min(last, Math.max(0, moment));
  element("time").value = String(state.moment);
  element("now").value = `frame ${SCENE.timestamps[state.moment].toFixed(SCENE.perFrame > 1 ? 2 : 0)}`;
  dirty = true;
}

/** Move time and camera on, and draw if anything has changed. */
function tick(now) {
  const seconds = Math.min(0.1, (now - previous) / 1000);
  previous = now;
  if (pressed("play")) {
    state.elapsed += seconds * SCENE.framesPerSecond * (pressed("slow") ? 0.25 : 1);
    const step = pressed("slow") ? 1 : SCENE.perFrame, due = Math.floor((state.elapsed * SCENE.perFrame) / step);
    if (due > 0) {
      state.elapsed -= (due * step) / SCENE.perFrame;
      const next = state.moment + due * step;
      setMoment(next < SCENE.timestamps.length ? next : 0);
    }
  }
  if (pressed("circle")) {
    state.angle += (2 * Math.PI * seconds) / SCENE.circleSeconds;
    dirty = true;
  }
  if (pressed("record")) state.recorded.push({ pose: currentPose(), timestamp: SCENE.timestamps[state.moment] });
  if (dirty) {
    const names = [pressed("static") && "static", pressed("dynamic") && `time${state.moment}`].filter((name) => name);
    renderer.draw(currentPose(), names, pressed("depth"));
    dirty = false;
  }
  requestAnimationFrame(tick);
}

/** The recorded cameras, or the one at hand, in the format of nerfstudio's camera paths; the world of poses_bounds.npy. */
function cameraPath() {
  const views = state.recorded.length ? state.recorded
                                      : [{ pose: currentPose(), timestamp: SCENE.timestamps[state.moment] }];
  const { rotation, centre, scale } = SCENE.world;
  const toWorld = (pose) => [...[0, 1, 2].flatMap((i) => [0, 1, 2, 3].map((k) =>
    k < 3 ? dot(rotation[i], axis(pose, k)) : (dot(rotation[i], axis(pose, 3)) + centre[i]) / scale)), 0, 0, 0, 1];
  return {
    camera_type: "perspective", render_height: SCENE.height, render_width: SCENE.width, fps: 30,
    seconds: views.length / 30,
    camera_path: views.map(({ pose, timestamp }) => ({
      camera_to_world: toWorld(pose), fov: (360 / Math.PI) * Math.atan(SCENE.height / (2 * SCENE.focal)),
      aspect: SCENE.width / SCENE.height, render_time: timestamp / SCENE.lastFrame,
    })),
  };
}

function listen() {
  const move = (x, y, z = 0) => {
    state.offset = bounded(state.offset.map((value, i) => value + [x, y, z][i]));
    dirty = true;
  };
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) move((-2 * event.movementX) / canvas.clientWidth, (2 * event.movementY) / canvas.clientWidth);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    move(0, 0, Math.sign(event.deltaY) * 0.05);
  }, { passive: false });
  const keys = {
    ArrowLeft: () => move(-0.05, 0), ArrowRight: () => move(0.05, 0), ArrowUp: () => move(0, 0.05),
    ArrowDown: () => move(0, -0.05), "+": () => move(0, 0, -0.05), "-": () => move(0, 0, 0.05),
    " ": () => press("play", !pressed("play")), ",": () => setMoment(state.moment - 1),
    ".": () => setMoment(state.moment + 1), Home: () => { state.offset = [0, 0, 0]; dirty = true; },
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  for (const name of ["play", "slow", "circle", "static", "dynamic", "depth"])
    element(name).addEventListener("click", () => { press(name, !pressed(name)); dirty = true; });
  element("record").addEventListener("click", () => {
    press("record", !pressed("record"));
    if (pressed("record")) state.recorded = [];
  });
  element("time").addEventListener("input", () => setMoment(Number(element("time").value)));
  element("full").addEventListener("click", () => document.querySelector("main").requestFullscreen());
  element("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(cameraPath(), null, 1)], { type: "application/json" }));
    link.download = "camera_path.json";
    link.click();
  });
}

/** A view in the address: x, y, z in units of the reach, moment, and buttons that are pressed or not. */
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.offset = ["x", "y", "z"].map((name) => Number(given.get(name) || 0));
  setMoment(Number(given.get("moment") ?? SCENE.start));
  for (const name of ["play", "slow", "circle", "static", "dynamic", "depth"])
    if (given.has(name)) press(name, given.get(name) === "1");
  document.body.classList.toggle("bare", given.get("bare") === "1");
}

async function start() {
  if (!gl) {
    canvas.hidden = true;
    element("still").hidden = false;
    element("controls").hidden = true;
    element("message").textContent = "This browser shows no WebGL 2: one view of the scene stands in for it.";
    return;
  }
  const scale = location.hash.includes("bare=1") ? 1 : Math.min(2, window.devicePixelRatio || 1);
  canvas.width = Math.round(SCENE.width * scale);
  canvas.height = Math.round(SCENE.height * scale);
  renderer = new Renderer();
  readAddress();
  listen();
  await renderer.load("static");
  await renderer.load(`time${state.moment}`);
  requestAnimationFrame(tick);
  for (let moment = 0; moment < SCENE.timestamps.length; moment++) {
    if (!renderer.parts[`time${moment}`]) await renderer.load(`time${moment}`);
    dirty = true;
  }
  document.body.dataset.loaded = "1";
}

start();
