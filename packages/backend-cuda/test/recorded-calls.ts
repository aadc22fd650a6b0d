/** A small program of kernel calls with results that are known without them: what is recorded with TensorFlow and played without. */
import { type Backend, call, type DeviceBuffer, type DType, input, scalar, type TypedArray } from "@peftjs/core"

export interface Checked {
  readonly name: string
  readonly got: TypedArray
  readonly expected: readonly number[]
}

const a = [1, -2, 3, 0.5, 5, -6]
const b = [2, 1, 0, -1, 4, 0.25]
const product = (
  m: number,
  n: number,
  k: number,
  x: (i: number, q: number) => number,
  y: (q: number, j: number) => number,
) =>
  Array.from({ length: m * n }, (_, at) =>
    Array.from({ length: k }, (_, q) => x(Math.floor(at / n), q) * y(q, at % n)).reduce((sum, v) => sum + v, 0),
  )
const at = (values: readonly number[], index: number): number => values[index] as number

/** Runs it and gives everything back: afterwards the backend holds no buffer. */
export async function recordedCalls(backend: Backend): Promise<Checked[]> {
  const { kernels } = backend
  const made: DeviceBuffer[] = []
  const keep = (buffer: DeviceBuffer): DeviceBuffer => {
    made.push(buffer)
    return buffer
  }
  const up = (values: readonly number[], dtype: DType = "f32"): DeviceBuffer =>
    keep(backend.upload(dtype === "f32" ? Float32Array.from(values) : Int32Array.from(values), dtype))
  const checked: Checked[] = []
  const check = async (name: string, buffer: DeviceBuffer, expected: readonly number[]): Promise<void> => {
    checked.push({ name, got: await backend.read(keep(buffer)), expected })
  }

  const [x, y] = [up(a), up(b)]
  const flat = { batch: 1, m: 2, n: 2, k: 3, transA: false, transB: true }
  await check(
    "matmul, b transposed",
    kernels.matmul(x, y, flat),
    product(
      2,
      2,
      3,
      (i, q) => at(a, i * 3 + q),
      (q, j) => at(b, j * 3 + q),
    ),
  )
  await check(
    "matmul, a transposed",
    kernels.matmul(x, y, { batch: 1, m: 3, n: 3, k: 2, transA: true, transB: false }),
    product(
      3,
      3,
      2,
      (i, q) => at(a, q * 3 + i),
      (q, j) => at(b, q * 3 + j),
    ),
  )
  const bf16 = keep(backend.upload(Uint16Array.of(0x3f80, 0xc000, 0x4040), "bf16"))
  await check("matmul of bf16", kernels.matmul(bf16, up([1, 2, 3]), { ...flat, m: 1, n: 1 }), [1 - 4 + 9])
  const inputs = [
    { buffer: x, shape: [2, 3] },
    { buffer: up([10, 20, 30]), shape: [3] },
  ]
  const linear = call("add", call("mul", input(0), scalar(0)), input(1))
  await check(
    "map, broadcast",
    kernels.map(linear, inputs, [2], [2, 3], "f32"),
    a.map((v, i) => 2 * v + 10 * ((i % 3) + 1)),
  )
  await check("map, exp", kernels.map(call("exp", input(0)), inputs.slice(0, 1), [], [2, 3], "f32"), a.map(Math.exp))
  await check("sum of rows", kernels.reduce("sum", x, { outer: 2, n: 3, inner: 1 }), [2, -0.5])
  await check("maximum of columns", kernels.reduce("max", x, { outer: 1, n: 2, inner: 3 }), [1, 5, 3])
  const ids = up([1, 0, 1], "i32")
  await check("gather", kernels.gather(x, ids, { rows: 2, width: 3, n: 3 }), [0.5, 5, -6, 1, -2, 3, 0.5, 5, -6])
  await check(
    "scatterAdd",
    kernels.scatterAdd(up([1, 2, 3, 4, 5, 6]), ids, { rows: 3, width: 2, n: 3 }),
    [3, 4, 6, 8, 0, 0],
  )
  await check("permute", kernels.permute(x, [2, 3], [1, 0]), [1, 0.5, -2, 5, 3, -6])
  await check("slice", kernels.slice(x, { outer: 2, n: 3, inner: 1, start: 1, length: 2 }), [-2, 3, 5, -6])
  await check(
    "concat",
    kernels.concat([x, y], { outer: 2, ns: [3, 3], inner: 1 }),
    [1, -2, 3, 2, 1, 0, 0.5, 5, -6, -1, 4, 0.25],
  )
  // Known answers of Threefry-2x32 with 20 rounds, key and counter 0 (Salmon et al. 2011).
  await check("randomBits", kernels.randomBits([0, 0], 2), [0x6b200159, 0x99ba4efe])
  const [p, g, m, v] = [up([1, -1]), up([0.5, -2]), up([0, 0]), up([0, 0])]
  const rates = { learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 0, weightDecay: 0, gradScale: 1 }
  kernels.adamw?.(p, g, m, v, { ...rates, correction1: 0.1, correction2: 0.01 })
  // The first step moves by the learning rate, against the gradient's sign.
  for (const [name, buffer, expected] of [
    ["adamw", p, [0.9, -0.9]],
    ["adamw, first moment", m, [0.05, -0.2]],
    ["adamw, second moment", v, [0.0025, 0.04]],
  ] as const)
    checked.push({ name, got: await backend.read(buffer), expected })
  for (const buffer of made) backend.free(buffer)
  return checked
}
