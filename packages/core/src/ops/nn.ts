/**
 * Operations of networks. Each runs a backend's fused kernel where there is one and its decomposition where there is not;
 * the gradient is the same for both.
 */
import type { AttentionDims, DeviceBuffer, FusedKernels } from "../backend.ts"
import type { Shape } from "../dtype.ts"
import type { Engine } from "../engine.ts"
import { bufferOf, wrap } from "../engine.ts"
import { call, constant, coordinate, type Expr, input, scalar, uniform } from "../expr.ts"
import type { Part } from "../model.ts"
import type { Op } from "../op.ts"
import { apply } from "../op.ts"
import type { Key } from "../random.ts"
import { concat, map, sameShape, shapeError, type Tensor } from "../tensor.ts"
import { matmulOp as batched } from "./linear.ts"

const sub = call("sub", input(0), input(1))
const expOfDifference = call("exp", sub)

const softmaxOp: Op<null> = {
  forward([x]) {
    const t = x as Tensor
    const n = t.shape.at(-1) as number
    const { engine } = t
    const fused = engine.backend.kernels.softmax
    if (fused) return wrap(engine, fused(bufferOf(t), t.size / Math.max(n, 1), n), t.shape)
    const e = map(expOfDifference, [t, t.max(-1, { keepdims: true })])
    return e.div(e.sum(-1, { keepdims: true }))
  },
  saves: () => ["output"],
  gradient: ({ dy, output }) => [softmaxGradient(dy, output)],
}

const softmaxBack = call("mul", input(1), call("sub", input(0), input(2)))

function softmaxGradient(dy: Tensor, y: Tensor): Tensor {
  return map(softmaxBack, [dy, y, dy.mul(y).sum(-1, { keepdims: true })])
}

/** Along the last axis. */
export function softmax(x: Tensor): Tensor {
  return apply(softmaxOp, [x], null)
}

const inverseRms = call("rsqrt", call("add", call("mul", input(0), scalar(0)), scalar(1)))
const scaled = call("mul", call("mul", input(0), input(1)), input(2))
// r·w·dy - x·r³·mean(dy·w·x)
const rmsBack = call(
  "sub",
  scaled,
  call("mul", input(3), call("mul", input(4), call("mul", input(1), call("mul", input(1), input(1))))),
)

const rmsNormOp: Op<{ eps: number }> = {
  forward([x, w], { eps }) {
    const [t, weight] = [x as Tensor, w as Tensor]
    const { engine } = t
    const fused = engine.backend.kernels.rmsNorm
    const n = weight.size
    if (fused) return wrap(engine, fused(bufferOf(t), bufferOf(weight), { rows: t.size / n, n, eps }), t.shape)
    return map(scaled, [t, rstd(t, eps), weight])
  },
  saves: ([needX, needW]) => (needW ? [0, 1] : needX ? [0, 1] : []),
  gradient({ dy, inputs: [x, w], args: { eps }, needs: [needX, needW] }) {
    const [t, weight] = [x as Tensor, w as Tensor]
    return [
      needX ? rmsNormGradient(t, weight, dy, eps) : undefined,
      needW
        ? map(scaled, [dy, t, rstd(t, eps)])
            .reshape([-1, weight.size])
            .sum(0)
        : undefined,
    ]
  },
}

function rstd(x: Tensor, eps: number): Tensor {
  const n = x.shape.at(-1) as number
  return map(inverseRms, [x.square().sum(-1, { keepdims: true })], { scalars: [1 / n, eps] })
}

function rmsNormGradient(x: Tensor, weight: Tensor, dy: Tensor, eps: number): Tensor {
  const { engine } = x
  const n = weight.size
  const fused = engine.backend.kernels.rmsNormBackward
  if (fused)
    return wrap(engine, fused(bufferOf(x), bufferOf(weight), bufferOf(dy), { rows: x.size / n, n, eps }), x.shape)
  const mean = map(scaled, [dy, weight, x]).mean(-1, { keepdims: true })
  return map(rmsBack, [dy, rstd(x, eps), weight, x, mean])
}

/** x · rsqrt(mean(x²) + eps) · weight over the last axis (Zhang & Sennrich 2019); weight is [n]. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  if (weight.shape.length !== 1 || x.shape.at(-1) !== weight.size)
    throw shapeError("rmsNorm", "the weight must be as long as the last axis", x, weight)
  return apply(rmsNormOp, [x, weight], { eps })
}

const turn = call("sub", call("mul", input(0), input(2)), call("mul", input(1), input(3)))
const turnBack = call("add", call("mul", input(1), input(2)), call("mul", input(0), input(3)))

const ropeOp: Op<null> = {
  forward([x, cos, sin]) {
    const [t, c, s] = [x as Tensor, cos as Tensor, sin as Tensor]
    const { engine } = t
    const fused = engine.backend.kernels.rope
    const dims = fused && fusedRope(t, c, s)
    if (fused && dims) return wrap(engine, fused(bufferOf(t), bufferOf(c), bufferOf(s), dims), t.shape)
    const half = (t.shape.at(-1) as number) / 2
    const [first, second] = [t.slice(-1, 0, half), t.slice(-1, half, 2 * half)]
    return concat([map(turn, [first, second, c, s]), map(turnBack, [first, second, c, s])], -1)
  },
  saves: () => [1, 2],
  gradient: ({ dy, inputs: [, cos, sin] }) => [
    apply(ropeOp, [dy, cos as Tensor, (sin as Tensor).neg()], null),
    undefined,
    undefined,
  ],
}

type RopeDims = Parameters<NonNullable<FusedKernels["rope"]>>[3]

/** The sizes for a backend's kernel; undefined for shapes that are not a model's [outer, tokens, heads, dim] with angles per token. */
function fusedRope(x: Tensor, cos: Tensor, sin: Tensor): RopeDims | undefined {
  const [outer, tokens, heads, dim] = x.shape
  const [rows, ...angles] = cos.shape
  if (outer === undefined || tokens === undefined || heads === undefined || dim === undefined) return undefined
  if (x.shape.length !== 4 || (rows !== outer && rows !== 1) || !sameShape(angles, [tokens, 1, dim / 2]))
    return undefined
  return sameShape(sin.shape, cos.shape) ? { outer, rows, tokens, heads, dim } : undefined
}

/**
 * Rotary position embedding in the half-split layout of Hugging Face (Su et al. 2021): x [batch, tokens, heads, dim];
 * cos and sin broadcast to [batch, tokens, heads, dim/2].
 */
export function rope(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  if ((x.shape.at(-1) ?? 1) % 2 !== 0) throw shapeError("rope", "the last axis must be even", x)
  return apply(ropeOp, [x, cos, sin], null)
}

export interface AttentionOptions {
  /** Multiplies q·k; 1/√dim by default. */
  readonly scale?: number
  /** Keys that come before the first query; keys - queries by default. */
  readonly offset?: number
  /** Each query sees this many keys at most, itself included. */
  readonly window?: number
  /** i32 [batch, keys]; keys that hold 0 are hidden. */
  readonly valid?: Tensor
}

/**
 * Causal attention with grouped key-value heads (Vaswani et al. 2017; Ainslie et al. 2023).
 * q [batch, queries, heads, dim], k and v [batch, keys, kvHeads, dim] → [batch, queries, heads, dim]. Throws E_SHAPE.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const [batch, queries, heads, dim] = q.shape
  const [, keys, kvHeads] = k.shape
  if (
    batch === undefined ||
    queries === undefined ||
    heads === undefined ||
    dim === undefined ||
    keys === undefined ||
    kvHeads === undefined ||
    heads % kvHeads !== 0 ||
    !sameShape(k.shape, [batch, keys, kvHeads, dim]) ||
    !sameShape(v.shape, k.shape) ||
    (options.valid && !sameShape(options.valid.shape, [batch, keys]))
  ) {
    throw shapeError("attention", "[batch, queries, heads, dim] and [batch, keys, kvHeads, dim] are needed", q, k, v)
  }
  const { scale = 1 / Math.sqrt(dim), offset = keys - queries, window, valid } = options
  const dims = { batch, queries, keys, heads, kvHeads, dim, scale, offset, ...(window === undefined ? {} : { window }) }
  return apply(attentionOp, valid ? [q, k, v, valid] : [q, k, v], dims)
}

const attentionOp: Op<AttentionDims> = {
  forward([q, k, v, valid], dims) {
    const [x, y, z] = [q as Tensor, k as Tensor, v as Tensor]
    const { engine } = x
    const fused = engine.backend.kernels.attention
    if (fused) return wrap(engine, fused(bufferOf(x), bufferOf(y), bufferOf(z), bufferOr(valid), dims), x.shape)
    return ungroup(probabilities(x, y, valid, dims).matmul(byHead(z)), dims)
  },
  saves: (needs) => needs.map((_, i) => i),
  gradient({ dy, inputs: [q, k, v, valid], args: dims }) {
    const [x, y, z] = [q as Tensor, k as Tensor, v as Tensor]
    const { engine } = x
    const fused = engine.backend.kernels.attentionBackward
    if (fused) {
      const grads = fused(bufferOf(x), bufferOf(y), bufferOf(z), bufferOr(valid), bufferOf(dy), dims)
      return [x, y, z].map((t, i) => wrap(engine, grads[i] as DeviceBuffer, t.shape))
    }
    const p = probabilities(x, y, valid, dims)
    const d = group(dy, dims)
    const product = (a: Tensor, b: Tensor, transA: boolean, transB: boolean): Tensor =>
      apply(batched, [a, b], { transA, transB })
    const ds = scoreGradient(product(d, byHead(z), false, true), p, valid, dims)
    return [
      ungroup(product(ds, byHead(y), false, false), dims),
      unheaded(product(ds, group(x, dims), true, false), dims),
      unheaded(product(p, d, true, false), dims),
    ]
  },
}

function bufferOr(tensor: Tensor | undefined): DeviceBuffer | undefined {
  return tensor ? bufferOf(tensor) : undefined
}

// Heads that share a key-value head are stacked as more queries: [batch·kvHeads, group·queries, dim].
function group(q: Tensor, d: AttentionDims): Tensor {
  return q.permute([0, 2, 1, 3]).reshape([d.batch * d.kvHeads, (d.heads / d.kvHeads) * d.queries, d.dim])
}
function ungroup(q: Tensor, d: AttentionDims): Tensor {
  return q.reshape([d.batch, d.heads, d.queries, d.dim]).permute([0, 2, 1, 3])
}
function byHead(k: Tensor): Tensor {
  const [batch, keys, heads, dim] = k.shape as [number, number, number, number]
  return k.permute([0, 2, 1, 3]).reshape([batch * heads, keys, dim])
}
function unheaded(k: Tensor, d: AttentionDims): Tensor {
  return k.reshape([d.batch, d.kvHeads, d.keys, d.dim]).permute([0, 2, 1, 3])
}

// Axes of the scores: 0 batch, 1 head, 2 query, 3 key. Finite, so that a query which sees nothing averages all values.
const hidden = constant(-3.4e38)
const [row, column] = [call("add", coordinate(2), scalar(0)), coordinate(3)]
const causal = call("le", column, row)
const inWindow = call("lt", call("sub", row, scalar(1)), column)

const scaledScore = call("mul", input(0), scalar(2))
const scaledGradient = call("mul", softmaxBack, scalar(2))

function probabilities(q: Tensor, k: Tensor, valid: Tensor | undefined, d: AttentionDims): Tensor {
  const scores = apply(batched, [group(q, d), byHead(k)], { transA: false, transB: true })
  return softmax(mapVisible(scaledScore, hidden, [byQuery(scores, d)], valid, d)).reshape(scores.shape)
}

/** From the gradient of the probabilities to that of q·k: none where a key is hidden, also for a query that sees nothing. */
function scoreGradient(dy: Tensor, p: Tensor, valid: Tensor | undefined, d: AttentionDims): Tensor {
  const sums = dy.mul(p).sum(-1, { keepdims: true })
  const operands = [byQuery(dy, d), byQuery(p, d), sums.reshape([d.batch, d.heads, d.queries, 1])]
  return mapVisible(scaledGradient, constant(0), operands, valid, d).reshape(p.shape)
}

function byQuery(scores: Tensor, d: AttentionDims): Tensor {
  return scores.reshape([d.batch, d.heads, d.queries, d.keys])
}

/** `shown` where a query sees a key, else `otherwise`; scalar 2 is the scale. */
function mapVisible(
  shown: Expr,
  otherwise: Expr,
  operands: readonly Tensor[],
  valid: Tensor | undefined,
  d: AttentionDims,
): Tensor {
  const inReach = d.window === undefined ? causal : call("mul", causal, inWindow)
  const visible = valid ? call("mul", inReach, input(operands.length)) : inReach
  const all = valid ? [...operands, valid.reshape([d.batch, 1, 1, d.keys])] : operands
  return map(call("select", visible, shown, otherwise), all, { scalars: [d.offset, d.window ?? 0, d.scale] })
}

const kept = call("select", call("le", scalar(0), uniform(1)), call("mul", input(0), scalar(1)), constant(0))

interface DropoutArgs {
  readonly p: number
  readonly key: Key
  readonly part: Part | undefined
}

const dropoutOp: Op<DropoutArgs> = {
  forward: ([x], args) => dropMask(x as Tensor, args),
  saves: () => [],
  gradient: ({ dy, args }) => [dropMask(dy, args)],
}

function dropMask(x: Tensor, { p, key, part }: DropoutArgs): Tensor {
  const bits = part ? partOfBits(x, key, part) : randomBits(x.engine, key, x.shape)
  return map(kept, [x, bits], { scalars: [p, 1 / (1 - p)] })
}

function partOfBits(x: Tensor, key: Key, { first, rows, of }: Part): Tensor {
  const whole = randomBits(x.engine, key, [of, x.size / rows])
  return whole.slice(0, first, first + rows).reshape(x.shape)
}

function randomBits(engine: Engine, key: Key, shape: Shape): Tensor {
  const n = shape.reduce((a, b) => a * b, 1)
  return wrap(engine, engine.backend.kernels.randomBits(key, n), shape)
}

/** Zeroes each element with probability p and divides the others by 1 - p (Srivastava et al. 2014). The mask is drawn again, not kept, for the gradient; with `part`, the leading axis is that part of one whose mask is drawn. */
export function dropout(x: Tensor, p: number, key: Key, part?: Part): Tensor {
  return p === 0 ? x : apply(dropoutOp, [x], { p, key, part })
}
