/**
 * The two passes over a tile of attention scores that are no products, each in place: scores to probabilities under the mask, and the
 * gradient of probabilities to that of q·k. A row is summed by one invocation where a CPU plays the GPU, else by a workgroup.
 */
import type { AttentionDims, DeviceBuffer } from "@peftjs/core"
import { type AttentionTile, scoreRows } from "./attention-tile.ts"
import type { Gpu, GpuBuffer, ProgramParam } from "./gpu.ts"

const params: readonly ProgramParam[] = [
  { name: "rows", type: "u32" },
  { name: "keys", type: "u32" },
  { name: "queries", type: "u32" },
  { name: "rows_of_batch", type: "u32" },
  { name: "first_query", type: "u32" },
  { name: "first_batch", type: "u32" },
  { name: "offset", type: "i32" },
  { name: "window", type: "i32" },
  { name: "scale", type: "f32" },
]

/** A window that hides nothing. */
const unbounded = 2 ** 30

/** Query `query` sees keys low…high-1, those of them that are valid. */
const reach = `
let query = i32(p.first_query + row % p.queries);
let keys = i32(p.keys);
let high = u32(clamp(query + p.offset + 1, 0, keys));
let low = u32(clamp(query + p.offset + 1 - p.window, 0, keys));
let at = row * p.keys;
let valid_at = (p.first_batch + row / p.rows_of_batch) * p.keys;`

function visible(masked: boolean): string {
  return `fn visible(i: u32) -> bool { return ${masked ? "valid[i] != 0" : "true"}; }`
}

/** `total(lane, x)` and `highest(lane, x)`: over the lanes that share a row, in an order that is always the same. */
function across(lanes: number): string {
  if (lanes === 1)
    return "fn total(lane: u32, x: f32) -> f32 { return x; }\nfn highest(lane: u32, x: f32) -> f32 { return x; }"
  const over = (name: string, join: (a: string, b: string) => string): string => `
fn ${name}(lane: u32, x: f32) -> f32 {
  shared_row[lane] = x;
  for (var half = ${lanes / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) { shared_row[lane] = ${join("shared_row[lane]", "shared_row[lane + half]")}; }
  }
  let result = workgroupUniformLoad(&shared_row[0]);
  workgroupBarrier();
  return result;
}`
  return `var<workgroup> shared_row: array<f32, ${lanes}>;
${over("total", (a, b) => `${a} + ${b}`)}
${over("highest", (a, b) => `max(${a}, ${b})`)}`
}

const start = (lanes: number): string => `
let row = ${lanes === 1 ? "index" : "group_index"};
if (row >= p.rows) { return; }
${lanes === 1 ? "let first = 0u;" : "let first = lane;"}
${reach}`

const probabilities = (lanes: number): string => `${start(lanes)}
var top = -3.4e38;
for (var j = low + first; j < high; j += ${lanes}u) {
  if (visible(valid_at + j)) { top = max(top, x[at + j] * p.scale); }
}
top = highest(first, top);
var sum = 0.0;
for (var j = low + first; j < high; j += ${lanes}u) {
  let e = select(0.0, exp(x[at + j] * p.scale - top), visible(valid_at + j));
  x[at + j] = e;
  sum += e;
}
sum = total(first, sum);
if (sum == 0.0) {
  // A query that sees nothing averages all.
  for (var j = first; j < p.keys; j += ${lanes}u) { x[at + j] = 1.0 / f32(p.keys); }
  return;
}
for (var j = first; j < low; j += ${lanes}u) { x[at + j] = 0.0; }
for (var j = low + first; j < high; j += ${lanes}u) { x[at + j] = x[at + j] / sum; }
for (var j = max(low, high) + first; j < p.keys; j += ${lanes}u) { x[at + j] = 0.0; }`

const gradient = (lanes: number): string => `${start(lanes)}
var sum = 0.0;
for (var j = low + first; j < high; j += ${lanes}u) { sum += y[at + j] * x[at + j]; }
sum = total(first, sum);
for (var j = first; j < p.keys; j += ${lanes}u) {
  let seen = j >= low && j < high && visible(valid_at + j);
  x[at + j] = select(0.0, y[at + j] * (x[at + j] - sum) * p.scale, seen);
}`

export interface MaskedScores {
  readonly dims: AttentionDims
  readonly tile: AttentionTile
  readonly valid: DeviceBuffer | undefined
  /** Invocations that share a row. */
  readonly lanes: number
}

/** q·k becomes probabilities. */
export function scoresToProbabilities(gpu: Gpu, scores: GpuBuffer, masked: MaskedScores): void {
  overRows(gpu, "attention softmax", probabilities, [], scores, masked)
}

/** The gradient of probabilities becomes that of q·k. */
export function probabilityGradient(gpu: Gpu, probability: GpuBuffer, target: GpuBuffer, masked: MaskedScores): void {
  overRows(gpu, "attention softmax gradient", gradient, [probability], target, masked)
}

function overRows(
  gpu: Gpu,
  name: string,
  body: (lanes: number) => string,
  read: readonly GpuBuffer[],
  target: GpuBuffer,
  { dims, tile, valid, lanes }: MaskedScores,
): void {
  const program = gpu.program(`${name} ${lanes}${valid ? " masked" : ""}`, () => ({
    inputs: [
      ...(valid ? [{ name: "valid", type: "i32" } as const] : []),
      ...read.map(() => ({ name: "y", type: "f32" }) as const),
    ],
    outputs: [{ name: "x", type: "f32" }],
    params,
    workgroupSize: [lanes === 1 ? 64 : lanes],
    helpers: `${visible(valid !== undefined)}\n${across(lanes)}`,
    body: body(lanes),
  }))
  const rows = scoreRows(tile)
  const { keys, offset, window = unbounded, scale } = dims
  gpu.update(program, {
    inputs: [...(valid ? [valid] : []), ...read],
    targets: [target],
    params: [rows, keys, tile.queries, rows / tile.batches, tile.query, tile.batch, offset, window, scale],
    groups: lanes === 1 ? Math.ceil(rows / 64) : rows,
  })
}
