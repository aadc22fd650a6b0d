/** Kernels that move elements and keep their type. */
import { type DeviceBuffer, invariant, type RequiredKernels, sizeOf } from "@peftjs/core"
import { joined, sliced, transposed } from "./arithmetic.ts"
import type { Device } from "./device.ts"
import { sameShape } from "./ops.ts"
import type { TfTensor } from "./tf-runtime.ts"

export function createPermute(device: Device): RequiredKernels["permute"] {
  return (x, shape, axes) =>
    device.produce(
      () => `permute of ${x.dtype} [${shape}] to [${axes}]`,
      x.dtype,
      sizeOf(shape),
      (ops) => transposed(ops, ops.of(x, shape), axes),
    )
}

export function createSlice(device: Device): RequiredKernels["slice"] {
  return (x, { outer, n, inner, start, length }) =>
    device.produce(
      () => `slice ${start} + ${length} of ${x.dtype} [${outer}, ${n}, ${inner}]`,
      x.dtype,
      outer * length * inner,
      (ops) => (length === n ? ops.any(x) : sliced(ops, ops.of(x, [outer, n, inner]), 1, start, length)),
    )
}

export function createConcat(device: Device): RequiredKernels["concat"] {
  return (xs, { outer, ns, inner }) => {
    const { dtype } = xs[0] as DeviceBuffer
    for (const x of xs) invariant(x.dtype === dtype, `backend-cuda: concat of ${dtype} with ${x.dtype}`)
    const total = ns.reduce((a, b) => a + b, 0)
    return device.produce(
      () => `concat of ${dtype} [${outer}, (${ns}), ${inner}]`,
      dtype,
      outer * total * inner,
      (ops) => {
        const own = xs.map(ops.any)
        // Arrays of one shape, one after the other: numbers need not become rows of one first.
        if (outer === 1 && dtype === "f32" && own.every((x) => sameShape(x.shape, (own[0] as TfTensor).shape)))
          return ops.run("Pack", { T: { type: dtype }, N: { int: xs.length }, axis: { int: 0 } }, ...own)
        return joined(
          ops,
          xs.map((x, i) => ops.of(x, [outer, ns[i] as number, inner])),
          1,
        )
      },
    )
  }
}
