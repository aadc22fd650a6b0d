/** What the kit cannot see of the loss over pieces of the vocabulary: how much exists at a time. */
import { cpu } from "@peftjs/backend-cpu"
import { engineOf, linearCrossEntropy, tensor, uploadDense, valueAndGradients, type Weight } from "@peftjs/core"
import { expect, it } from "vitest"

it.each([
  ["frozen: the gradient is found while the logits exist", false],
  ["trained: the logits are made again", true],
])("the logits of one piece are gone before the next one's are made, %s", async (_, trained) => {
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
  for (const part of dense.parts) if (part.tensor) part.tensor.requiresGrad = trained
  const labels = tensor(backend, [1, 2, 3, 4, 95], [n], "i32")
  valueAndGradients(engine, () => linearCrossEntropy(x, weight, labels, { vocabChunk: 4 }).sum())
  expect(seen).toHaveLength(trained ? 48 : 24)
  // What runs along is replaced in the forward pass; in the backward pass a running gradient, and one of W, stay from each piece.
  const growth = (live: number[]): number => Math.max(...live.slice(1).map((n, i) => n - (live[i] as number)))
  // The first piece has nothing that runs along with it.
  expect(growth(seen.slice(1, 24))).toBe(0)
  if (trained) expect(growth(seen.slice(24))).toBeLessThanOrEqual(2)
})
