/** Cross-entropy, whole or over pieces of the vocabulary so that the logits never exist at once. */
import { bufferOf, free, full, hold, scope, wrap } from "../engine.ts"
import { call, constant, coordinate, type Expr, input } from "../expr.ts"
import type { Op } from "../op.ts"
import { apply } from "../op.ts"
import { computed } from "../sums.ts"
import { concat, map, shapeError, type Tensor } from "../tensor.ts"
import type { Weight } from "../weight.ts"
import { scatterAddPart } from "./linear.ts"

const expOfDifference = call("exp", call("sub", input(0), input(1)))
const isLabel = call("eq", coordinate(1), input(1))
const labelLogit = call("select", isLabel, input(0), constant(0))
// (exp(logit - logsumexp) - [label]) · dy
const lossBack = call("mul", input(3), call("sub", call("exp", call("sub", input(0), input(2))), isLabel))

/** log Σ exp of each row: [n, vocab] → [n, 1]. */
function logSumExp(logits: Tensor): Tensor {
  const { engine } = logits
  const [n, vocab] = logits.shape as [number, number]
  const fused = engine.backend.kernels.logSumExp
  if (fused) return wrap(engine, fused(bufferOf(logits), n, vocab), [n, 1])
  const top = logits.max(1, { keepdims: true })
  return map(expOfDifference, [logits, top]).sum(1, { keepdims: true }).log().add(top)
}

/** The softmax of each row, and log Σ exp of it: [n, vocab] → [n, vocab] and [n, 1]. */
function normalised(logits: Tensor): { p: Tensor; lse: Tensor } {
  const { engine } = logits
  const [n, vocab] = logits.shape as [number, number]
  const fused = engine.backend.kernels.softmaxLogSumExp
  if (fused) {
    const [p, lse] = fused(bufferOf(logits), n, vocab)
    return { p: wrap(engine, p, logits.shape), lse: wrap(engine, lse, [n, 1]) }
  }
  const lse = logSumExp(logits)
  return { p: map(expOfDifference, [logits, lse]), lse }
}

const crossEntropyOp: Op<null> = {
  forward([logits, labels]) {
    const [z, ids] = [logits as Tensor, labels as Tensor]
    const lse = logSumExp(z)
    const picked = map(labelLogit, [z, ids.reshape([-1, 1])]).sum(1)
    return [lse.reshape([-1]).sub(picked), lse]
  },
  saves: () => [0, 1],
  gradient({ dy, inputs: [logits, labels], extra: [lse] }) {
    return [
      map(lossBack, [logits as Tensor, (labels as Tensor).reshape([-1, 1]), lse as Tensor, dy.reshape([-1, 1])]),
      undefined,
    ]
  },
}

/** -log softmax(logits)[label] per row: logits [n, vocab], labels i32 [n] inside 0…vocab-1 → [n]. */
export function crossEntropy(logits: Tensor, labels: Tensor): Tensor {
  if (logits.shape.length !== 2 || labels.size !== logits.shape[0])
    throw shapeError("crossEntropy", "[n, vocab] and [n] are needed", logits, labels)
  return apply(crossEntropyOp, [logits, labels], null)
}

interface Piece {
  readonly start: number
  readonly end: number
}

/** Pieces of at most `rows` rows that do not cross the parts a weight is stored in. */
function piecesOf(weight: Weight, rows: number): { part: number; pieces: Piece[] }[] {
  return weight.parts.map((part, index) => {
    const pieces: Piece[] = []
    for (let start = part.start; start < part.end; start += rows)
      pieces.push({ start, end: Math.min(part.end, start + rows) })
    return { part: index, pieces }
  })
}

// log(exp(a) + exp(b)) (as in Milakov & Gimelshein 2018, "Online normalizer calculation for softmax"); the larger one is finite.
const larger = call("max", input(0), input(1))
const smaller = call("min", input(0), input(1))
const logAddExp = call("add", larger, call("log", call("add", constant(1), call("exp", call("sub", smaller, larger)))))

// Two means, each relative to a normaliser of its own, as one relative to both: of exponentials that are added up.
const rescaled = (mean: number, lse: number): Expr =>
  call("mul", input(mean), call("exp", call("sub", input(lse), input(4))))
const rescaledSum = call("add", rescaled(0, 1), rescaled(2, 3))

interface LinearCrossEntropy {
  readonly weight: Weight
  readonly vocabChunk: number
  /** Whether the gradient with respect to x is found in the forward pass, while the logits exist: nothing else needs them again then. */
  readonly ahead: boolean
}

/** Of the pieces so far: log Σ exp of their logits, and Σ softmax · W. */
interface Running {
  readonly lse: Tensor
  readonly mean?: Tensor
}

function freeRunning({ lse, mean }: Running): void {
  free(lse)
  if (mean) free(mean)
}

const linearCrossEntropyOp: Op<LinearCrossEntropy> = {
  forward([x, labels], { weight, vocabChunk, ahead }) {
    const t = x as Tensor
    const n = t.shape[0] as number
    // Held, and given back as soon as there are newer ones; in this scope they would all live until its end.
    let kept: Running = { lse: hold(full(t.engine.backend, [n, 1], Number.NEGATIVE_INFINITY)) }
    for (const { pieces } of piecesOf(weight, vocabChunk)) {
      for (const piece of pieces) {
        const before = kept
        // A scope each: the logits of one piece are gone before the next one's are made.
        kept = scope(t.engine, () => {
          const rows = weight.rows(piece)
          const logits = t.matmul(rows.T)
          if (!ahead) return { lse: hold(map(logAddExp, [before.lse, logSumExp(logits)])) }
          const own = normalised(logits)
          const lse = map(logAddExp, [before.lse, own.lse])
          const mean = computed(own.p.matmul(rows))
          const both = before.mean && map(rescaledSum, [before.mean, before.lse, mean, own.lse, lse])
          return { lse: hold(lse), mean: hold(both ?? mean) }
        })
        freeRunning(before)
      }
    }
    const [lse, mean] = [kept.lse.detach(), kept.mean?.detach()]
    freeRunning(kept)
    const atLabels = weight.rows(labels as Tensor)
    const loss = lse.reshape([-1]).sub(atLabels.mul(t).sum(1))
    return mean ? [loss, mean.sub(atLabels)] : [loss, lse]
  },
  saves: (_needs, { ahead }) => (ahead ? [] : [0, 1]),
  gradient({ dy, inputs: [x, labels], extra: [kept], args: { weight, vocabChunk, ahead }, needs }) {
    if (ahead) return [(kept as Tensor).mul(dy.reshape([-1, 1]))]
    const [t, ids, column] = [x as Tensor, labels as Tensor, dy.reshape([-1, 1])]
    const wanted = needs.slice(2)
    let dx: Tensor | undefined
    const parts = piecesOf(weight, vocabChunk).map(({ part, pieces }) => {
      const grads = pieces.map((piece) => {
        const before = dx
        const found = scope(t.engine, () => {
          const rows = weight.rows(piece)
          const p = map(softmaxTimes, [t.matmul(rows.T), kept as Tensor, column])
          const g = needs[0] ? p.matmul(rows) : undefined
          return {
            dx: g && computed(before ? before.add(g) : g),
            dw: wanted[part] ? computed(p.T.matmul(t)) : undefined,
          }
        })
        dx = found.dx
        return found.dw
      })
      return wanted[part] ? concat(grads as Tensor[], 0) : undefined
    })
    if (dx) dx = dx.sub(weight.rows(ids).mul(column))
    const atLabels = t.mul(column)
    return [
      dx,
      undefined,
      ...parts.map((g, i) => {
        const { start, end } = weight.parts[i] as Piece
        return g?.sub(scatterAddPart(atLabels, ids, start, end))
      }),
    ]
  },
}

const softmaxTimes = call("mul", input(2), call("exp", call("sub", input(0), input(1))))

/**
 * Cross-entropy of x·Wᵀ without the logits: x [n, in], W [vocab, in], labels i32 [n] → [n].
 * At most `vocabChunk` logits per row exist at a time. Where W is trained the backward pass computes them again; else the gradient of x is
 * kept in their place.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Weight,
  labels: Tensor,
  options: { vocabChunk?: number } = {},
): Tensor {
  if (x.shape.length !== 2 || x.shape[1] !== weight.shape[1] || labels.size !== x.shape[0]) {
    throw shapeError(
      "linearCrossEntropy",
      `a weight [${weight.shape}] needs [n, ${weight.shape[1]}] and labels [n]`,
      x,
      labels,
    )
  }
  const trainable = weight.parts.flatMap((part) => (part.tensor?.requiresGrad ? [part.tensor] : []))
  // A chunk's logits and its rows in f32 must fit into one buffer each.
  const fitting = Math.floor(x.engine.backend.supports.maxBufferBytes / (4 * Math.max(...x.shape)))
  const vocabChunk = Math.max(1, Math.min(options.vocabChunk ?? 2048, fitting))
  const ahead = x.requiresGrad && x.engine.tape !== undefined && trainable.length === 0
  return apply(linearCrossEntropyOp, [x, labels, ...trainable], { weight, vocabChunk, ahead })
}
