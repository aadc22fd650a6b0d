/** Random bits: Threefry-2x32 with 20 rounds, word for word as core's randomWords, by integer ops on the device: 125 of them, and 48 bytes to it. */
import type { RequiredKernels } from "@peftjs/core"
import { binary, cast, reshape, sliced } from "./arithmetic.ts"
import type { Device } from "./device.ts"
import type { Ops } from "./ops.ts"
import type { TfTensor } from "./tf-runtime.ts"

const rotations = [13, 15, 26, 6, 17, 29, 16, 24] as const

export function createRandomBits(device: Device): RequiredKernels["randomBits"] {
  return (key, n) =>
    device.produce(
      () => `randomBits of ${n}`,
      "u32",
      n,
      (ops) => {
        const blocks = Math.ceil(n / 2)
        const words = threefry(ops, [key[0] >>> 0, key[1] >>> 0], blocks)
        const pairs = ops.run("Pack", { T: { type: "u32" }, N: { int: 2 }, axis: { int: 1 } }, ...words)
        return sliced(ops, reshape(ops, pairs, [2 * blocks]), 0, 0, n)
      },
    )
}

function threefry(ops: Ops, [k0, k1]: readonly [number, number], blocks: number): [TfTensor, TfTensor] {
  const word = (value: number): TfTensor => ops.constant("u32", [], `${value}`, () => Uint32Array.of(value))
  // What was read for the last time is given back as soon as its successor is there.
  const step = (name: string, x: TfTensor, y: TfTensor, ...done: readonly TfTensor[]): TfTensor => {
    const z = binary(ops, name, x, y)
    ops.drop(...done)
    return z
  }
  const keys = keyWords(ops, k0, k1)
  let a = step("AddV2", counters(ops, blocks), keys[0] as TfTensor)
  // All of its words are equal at first: one stands for them.
  let b = keys[1] as TfTensor
  for (let round = 0; round < 20; round++) {
    const r = rotations[round % 8] as number
    a = step("AddV2", a, b, a)
    const [left, right] = [binary(ops, "LeftShift", b, word(r)), binary(ops, "RightShift", b, word(32 - r))]
    const turned = step("BitwiseOr", left, right, left, right, b)
    b = step("BitwiseXor", turned, a, turned)
    if (round % 4 !== 3) continue
    const group = (round + 1) / 4
    a = step("AddV2", a, keys[2 * group] as TfTensor, a)
    b = step("AddV2", b, keys[2 * group + 1] as TfTensor, b)
  }
  return [a, b]
}

/** What is added to both words at the start and after every four rounds, each as u32 [1]. */
function keyWords(ops: Ops, k0: number, k1: number): TfTensor[] {
  const keys = [k0, k1, 0x1bd11bda ^ k0 ^ k1]
  const words = Uint32Array.from({ length: 12 }, (_, i) => {
    const group = Math.floor(i / 2)
    return i % 2 === 0 ? (keys[group % 3] as number) : (keys[(group + 1) % 3] as number) + group
  })
  const all = ops.upload("u32", [12], words)
  return Array.from(words, (_, i) => sliced(ops, all, 0, i, 1))
}

/** 0, 1, 2 … as u32. On a GPU TensorFlow counts on the host, so they are kept. */
function counters(ops: Ops, n: number): TfTensor {
  return ops.kept(`counters ${n}`, () => {
    const limits = [0, n, 1].map((value) => ops.constant("i32", [], `${value}`, () => Int32Array.of(value)))
    return cast(ops, ops.run("Range", { Tidx: { type: "i32" } }, ...limits), "u32")
  })
}
