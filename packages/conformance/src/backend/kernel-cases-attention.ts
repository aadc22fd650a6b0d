/** Cases of the optional kernels `attention` and `attentionBackward`, as kernels. */
import type { AttentionDims, Backend, DeviceBuffer } from "@peftjs/core"
import { check } from "../assert.ts"
import { numbers } from "./host.ts"
import { type AttentionOperands, attentionBackwardRows, attentionRows } from "./host-attention.ts"
import type { KernelCase } from "./kernel-check.ts"

/** Few sizes of heads, those of the operations' cases among them: a device may compile kernels for each. */
interface Shape {
  readonly name: string
  readonly dims: AttentionDims
  readonly valid?: Int32Array
}

const heads = { heads: 4, kvHeads: 2, dim: 4, scale: 0.4 } as const
const shapes: readonly Shape[] = [
  {
    name: "one query and one key",
    dims: { batch: 1, queries: 1, keys: 1, heads: 1, kvHeads: 1, dim: 2, scale: 1, offset: 0 },
  },
  { name: "no query", dims: { ...heads, batch: 2, queries: 0, keys: 3, offset: 3 } },
  { name: "grouped heads", dims: { ...heads, batch: 2, queries: 7, keys: 7, offset: 0 } },
  { name: "a cache before, window 3", dims: { ...heads, batch: 1, queries: 4, keys: 9, offset: 5, window: 3 } },
  { name: "one query", dims: { ...heads, batch: 2, queries: 1, keys: 33, offset: 32 } },
  {
    name: "padding, one query without a key",
    dims: { ...heads, batch: 2, queries: 5, keys: 5, offset: 0 },
    valid: Int32Array.of(0, 1, 1, 1, 1, 1, 1, 1, 1, 0),
  },
  {
    name: "tiles that do not divide",
    dims: { batch: 1, queries: 67, keys: 67, heads: 2, kvHeads: 1, dim: 5, scale: 0.25, offset: 0 },
  },
  {
    name: "heads of 64",
    dims: { batch: 1, queries: 9, keys: 9, heads: 2, kvHeads: 2, dim: 64, scale: 0.125, offset: 0 },
  },
]

/** Operands with scores of a few units, so that the softmax is neither flat nor a single 1. */
function operandsOf({ dims, valid }: Shape): AttentionOperands & { dy: Float32Array } {
  const { batch, queries, keys, kvHeads, dim } = dims
  const [asked, held] = [batch * queries * dims.heads * dim, batch * keys * kvHeads * dim]
  const of = (name: string, n: number): Float32Array => numbers(name, n, -1.5, 1.5)
  return { q: of("q", asked), k: of("k", held), v: of("v", held), dy: of("dy", asked), ...(valid ? { valid } : {}) }
}

function inputsOf({ q, k, v, valid }: AttentionOperands, dy?: Float32Array): KernelCase["inputs"] {
  return [
    ...[q, k, v, ...(dy ? [dy] : [])].map((data) => ({ data: data as Float32Array })),
    ...(valid ? [{ data: valid as Int32Array, dtype: "i32" as const }] : []),
  ]
}

function forwardCase(shape: Shape): KernelCase {
  const x = operandsOf(shape)
  return {
    label: `attention, ${shape.name}`,
    inputs: inputsOf(x),
    run({ kernels }, [q, k, v, valid]) {
      const { attention } = kernels as Required<Backend["kernels"]>
      return attention(q as DeviceBuffer, k as DeviceBuffer, v as DeviceBuffer, valid, shape.dims)
    },
    expected: attentionRows(x, shape.dims),
    tolerance: "attention",
  }
}

/** One case for each of the three gradients. */
function backwardCases(shape: Shape): KernelCase[] {
  const x = operandsOf(shape)
  return attentionBackwardRows(x, x.dy, shape.dims).map((expected, i) => ({
    label: `attentionBackward, ${shape.name}: ${["dq", "dk", "dv"][i]}`,
    inputs: inputsOf(x, x.dy),
    run(backend, buffers) {
      const [q, k, v, dy, valid] = buffers as readonly [
        DeviceBuffer,
        DeviceBuffer,
        DeviceBuffer,
        DeviceBuffer,
        undefined,
      ]
      const { attentionBackward } = backend.kernels as Required<Backend["kernels"]>
      const gradients = attentionBackward(q, k, v, valid, dy, shape.dims)
      check(new Set([...gradients, ...buffers]).size === 3 + buffers.length, "the gradients are not three new buffers")
      for (const other of gradients) if (other !== gradients[i]) backend.free(other)
      return gradients[i] as DeviceBuffer
    },
    expected,
    tolerance: "attention",
  }))
}

export const attentionCases: readonly KernelCase[] = shapes.map(forwardCase)
export const attentionBackwardCases: readonly KernelCase[] = shapes.flatMap(backwardCases)

/** More heads, over all texts, than a device starts workgroups along one axis. */
const many: Shape = {
  name: "65 644 heads in 16 411 texts",
  dims: { batch: 16_411, queries: 1, keys: 2, heads: 4, kvHeads: 4, dim: 2, scale: 0.7, offset: 1 },
}
export const manyHeads = {
  attention: (): readonly KernelCase[] => [forwardCase(many)],
  attentionBackward: (): readonly KernelCase[] => backwardCases(many),
} as const
