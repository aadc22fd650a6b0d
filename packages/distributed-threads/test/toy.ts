/** A small training, the same in every thread. */
import { cpu } from "@peftjs/backend-cpu"
import { toyModel } from "@peftjs/conformance"
import { adapt, type Communicator } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { jsonl, train } from "@peftjs/train"

const rows = Array.from({ length: 8 }, (_, i) => {
  const ids = Array.from({ length: 5 }, (_, t) => (i * 7 + t * 3) % 37)
  return { input_ids: ids, labels: ids }
})

/** The losses of its steps. */
export async function trainToy(communicator?: Communicator): Promise<number[]> {
  const model = adapt(toyModel(await cpu()), lora({ r: 2, alpha: 4, dropout: 0.2 }), { targetModules: "all-linear" })
  const losses: number[] = []
  await train(model, jsonl(rows, "made up"), {
    ...{ maxSteps: 4, batchSize: 4, learningRate: 0.02, seed: 3 },
    ...(communicator ? { communicator } : {}),
    onStep: ({ loss }) => void losses.push(loss),
  })
  return losses
}
