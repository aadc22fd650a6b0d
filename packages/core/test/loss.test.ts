/** What the kit cannot see of the loss over pieces of the vocabulary: how much exists at a time. */
import { cpu } from "@peftjs/backend-cpu"
import { engineOf, linearCrossEntropy, tensor, uploadDense, valueAndGradients, type Weight } from "@peftjs/core"
import { expect, it } from "vitest"

it("the logits of one piece are gone before the next one's are made, forward and backward", async () => {
  const backend = await cpu({ kernels: "reference" })
  const engine = engineOf(backend)
  const [vocab, width, n] = [96, 4, 5]
  const values = Float32Array.from({ length: vocab * width }, (_, i) => Math.sin(i))
  const dense = uploadDense(backend, values, "f32", [vocab, width])
  const seen: number[] = []
  const weight: Weight = {
    ...dense,
    rows(which) {
      if (!("shape" in which)) seen.push(engine.liveBuffers)
      return dense.rows(which)
    },
  }
  const x = tensor(backend, values.subarray(0, n * width), [n, width])
  x.requiresGrad = true
  const labels = tensor(backend, [1, 2, 3, 4, 95], [n], "i32")
  valueAndGradients(engine, () => linearCrossEntropy(x, weight, labels, { vocabChunk: 4 }).sum())
  expect(seen).toHaveLength(48)
  // A running maximum and sum, or a running gradient, stay from each piece; its logits, exponentials and rows do not.
  for (const part of [seen.slice(0, 24), seen.slice(24)]) {
    const growth = part.slice(1).map((live, i) => live - (part[i] as number))
    expect(Math.max(...growth)).toBeLessThanOrEqual(2)
  }
})
