/** Operations of networks and losses, over more shapes where a backend may have a fused kernel. */
import type { AttentionOptions, Tensor } from "@peftjs/core"
import {
  attention,
  crossEntropy,
  denseWeight,
  dropout,
  layerNorm,
  linearCrossEntropy,
  randomWords,
  rmsNorm,
  rope,
  softmax,
} from "@peftjs/core"
import { at, type Host, softmaxOf, spread, sum, tabulate } from "./host.ts"
import { fixed, ints, type OpCase, type OpInput, real } from "./op-check.ts"

const t = (x: readonly Tensor[], i: number): Tensor => x[i] as Tensor
const h = (x: readonly Host[], i: number): Host => x[i] as Host

function softmaxCase(rows: number, n: number, high = 1): OpCase {
  return {
    name: `softmax [${rows}, ${n}] up to ${high}`,
    fused: ["softmax"],
    inputs: [real("x", [rows, n], -high, high)],
    run: (x) => softmax(t(x, 0)),
    reference: (x) => tabulate([rows, n], (r, i) => softmaxOf(n, (j) => at(h(x, 0), r, j))[i] as number),
  }
}

function rmsNormCase(rows: number, n: number, eps: number): OpCase {
  return {
    name: `rmsNorm [${rows}, ${n}], eps ${eps}`,
    fused: ["rmsNorm", "rmsNormBackward"],
    inputs: [real("x", [rows, n]), real("weight", [n])],
    run: (x) => rmsNorm(t(x, 0), t(x, 1), eps),
    reference: (x) =>
      tabulate([rows, n], (r, i) => {
        const mean = sum(n, (j) => at(h(x, 0), r, j) ** 2) / n
        return (at(h(x, 0), r, i) / Math.sqrt(mean + eps)) * at(h(x, 1), i)
      }),
  }
}

function layerNormCase(rows: number, n: number, eps: number): OpCase {
  return {
    name: `layerNorm [${rows}, ${n}], eps ${eps}`,
    fused: ["layerNorm", "layerNormBackward"],
    inputs: [real("x", [rows, n]), real("weight", [n]), real("bias", [n])],
    run: (x) => layerNorm(t(x, 0), t(x, 1), t(x, 2), eps),
    reference: (x) =>
      tabulate([rows, n], (r, i) => {
        const mean = sum(n, (j) => at(h(x, 0), r, j)) / n
        const variance = sum(n, (j) => (at(h(x, 0), r, j) - mean) ** 2) / n
        return ((at(h(x, 0), r, i) - mean) / Math.sqrt(variance + eps)) * at(h(x, 1), i) + at(h(x, 2), i)
      }),
  }
}

/** Angles for each of the two texts, or the same for both. */
function ropeCase(rows: 1 | 2): OpCase {
  return {
    name: `rope, angles of ${rows} rows`,
    fused: ["rope"],
    inputs: [real("x", [2, 3, 2, 6]), fixed("cos", [rows, 3, 1, 3]), fixed("sin", [rows, 3, 1, 3])],
    run: (x) => rope(t(x, 0), t(x, 1), t(x, 2)),
    reference: (x) =>
      tabulate([2, 3, 2, 6], (b, i, head, d) => {
        const angle = [b, i, head, d % 3]
        const [c, s] = [spread(h(x, 1), angle), spread(h(x, 2), angle)]
        const part = (k: number): number => at(h(x, 0), b, i, head, k)
        return d < 3 ? part(d) * c - part(d + 3) * s : part(d) * c + part(d - 3) * s
      }),
  }
}

interface Heads {
  readonly batch: number
  readonly queries: number
  readonly keys: number
  readonly heads: number
  readonly kvHeads: number
  readonly dim: number
}

function attentionCase(
  name: string,
  shape: Heads,
  options: Omit<AttentionOptions, "valid"> = {},
  valid?: OpInput,
): OpCase {
  const { batch, queries, keys, heads, kvHeads, dim } = shape
  const { scale = 1 / Math.sqrt(dim), offset = keys - queries, window } = options
  return {
    name: `attention, ${name}`,
    fused: ["attention", "attentionBackward"],
    inputs: [
      real("q", [batch, queries, heads, dim], -2, 2),
      real("k", [batch, keys, kvHeads, dim], -2, 2),
      real("v", [batch, keys, kvHeads, dim]),
      ...(valid ? [valid] : []),
    ],
    run: (x) => attention(t(x, 0), t(x, 1), t(x, 2), valid ? { ...options, valid: t(x, 3) } : options),
    reference: (x) => {
      const [q, k, v] = [h(x, 0), h(x, 1), h(x, 2)]
      const sees = (b: number, i: number, j: number): boolean =>
        j <= i + offset && (window === undefined || j > i + offset - window) && valid?.data[b * keys + j] !== 0
      const rows = Array.from({ length: batch * queries * heads }, (_, row) => {
        const [b, i, head] = [Math.floor(row / heads / queries), Math.floor(row / heads) % queries, row % heads]
        const shared = Math.floor(head / (heads / kvHeads))
        return softmaxOf(keys, (j) =>
          sees(b, i, j) ? scale * sum(dim, (d) => at(q, b, i, head, d) * at(k, b, j, shared, d)) : -3.4e38,
        )
      })
      return tabulate([batch, queries, heads, dim], (b, i, head, d) => {
        const p = rows[(b * queries + i) * heads + head] as number[]
        const shared = Math.floor(head / (heads / kvHeads))
        return sum(keys, (j) => (p[j] as number) * at(v, b, j, shared, d))
      })
    },
  }
}

const one: Heads = { batch: 1, queries: 4, keys: 4, heads: 1, kvHeads: 1, dim: 4 }
const grouped: Heads = { batch: 2, queries: 5, keys: 5, heads: 4, kvHeads: 2, dim: 2 }

/** The first row is padded left, the second right. */
const padding = ints([2, 5], [0, 0, 1, 1, 1, 1, 1, 1, 1, 0])

function dropoutCase(p: number): OpCase {
  return {
    name: `dropout ${p}`,
    inputs: [real("x", [5, 7])],
    run: (x) => dropout(t(x, 0), p, [1, 2]),
    reference: (x) => {
      const words = randomWords([1, 2], 35)
      return tabulate([5, 7], (i, j) => {
        const place = i * 7 + j
        return ((words[place] as number) >>> 8) / 2 ** 24 >= Math.fround(p) ? at(h(x, 0), i, j) / (1 - p) : 0
      })
    },
  }
}

const labels = [2, 0, 6, 2]

function lossOf(logit: (row: number, id: number) => number): Host {
  return tabulate([4], (row) => {
    const p = softmaxOf(7, (id) => logit(row, id))
    return -Math.log(p[labels[row] as number] as number)
  })
}

const crossEntropyCase: OpCase = {
  name: "crossEntropy",
  fused: ["logSumExp"],
  inputs: [real("logits", [4, 7], -3, 3), ints([4], labels)],
  run: (x) => crossEntropy(t(x, 0), t(x, 1)),
  reference: (x) => lossOf((row, id) => at(h(x, 0), row, id)),
}

/** Rows 0…6 of the head in parts; `vocabChunk` does not divide them. */
function linearCrossEntropyCase(parts: readonly number[], trainable: boolean, vocabChunk: number): OpCase {
  const make = trainable ? real : fixed
  return {
    name: `linearCrossEntropy, ${trainable ? "trainable" : "frozen"} parts ${parts}, chunks of ${vocabChunk}`,
    fused: ["logSumExp", "softmaxLogSumExp"],
    inputs: [
      real("x", [4, 3], -2, 2),
      ints([4], labels),
      ...parts.map((rows, i) => make(`head ${i}`, [rows, 3], -2, 2)),
    ],
    run: (x) => linearCrossEntropy(t(x, 0), denseWeight(x.slice(2)), t(x, 1), { vocabChunk }),
    reference: (x) => {
      const rows = x
        .slice(2)
        .flatMap((part) =>
          Array.from({ length: part.shape[0] as number }, (_, r) => [0, 1, 2].map((j) => at(part, r, j))),
        )
      return lossOf((row, id) => sum(3, (j) => at(h(x, 0), row, j) * (rows[id]?.[j] as number)))
    },
  }
}

export const networkCases: readonly OpCase[] = [
  softmaxCase(1, 1),
  softmaxCase(3, 7),
  softmaxCase(2, 65),
  softmaxCase(2, 5, 120),
  rmsNormCase(1, 1, 1e-5),
  rmsNormCase(3, 7, 1e-5),
  rmsNormCase(2, 65, 1e-6),
  rmsNormCase(3, 5, 0.5),
  layerNormCase(3, 7, 1e-5),
  layerNormCase(2, 65, 0.5),
  ropeCase(1),
  ropeCase(2),
  attentionCase("one head", one),
  attentionCase("one token", { ...one, queries: 1, keys: 1 }),
  attentionCase("grouped heads", grouped),
  attentionCase("a cache before", { ...grouped, queries: 2 }),
  attentionCase("one query after a cache", { ...grouped, queries: 1 }),
  attentionCase("window 2", grouped, { window: 2 }),
  attentionCase("scale and offset", grouped, { scale: 0.3, offset: 1 }),
  attentionCase("padding, one query without a key", grouped, {}, padding),
  attentionCase("padding and window", grouped, { window: 3 }, padding),
  attentionCase("odd sizes", { batch: 1, queries: 9, keys: 11, heads: 3, kvHeads: 3, dim: 5 }),
  dropoutCase(0),
  dropoutCase(0.25),
  dropoutCase(0.9),
  crossEntropyCase,
  linearCrossEntropyCase([7], false, 4096),
  linearCrossEntropyCase([7], false, 2),
  linearCrossEntropyCase([7], true, 3),
  linearCrossEntropyCase([2, 4, 1], false, 4096),
  linearCrossEntropyCase([2, 4, 1], true, 3),
]
