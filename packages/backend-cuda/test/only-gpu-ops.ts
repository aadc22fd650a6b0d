/**
 * A runtime on the CPU that refuses every op that no GPU could run: on a GPU it would fail, for nothing is placed elsewhere in silence.
 * What GPUs can run is written in fixtures/gpu-kernels.json, as TensorFlow 2.18.1 with CUDA says of itself (record-gpu-kernels.ts).
 */
import { readFileSync } from "node:fs"
import type { TfAttr, TfRuntime } from "../src/tf-runtime.ts"

type Kernels = Readonly<Record<string, readonly Readonly<Record<string, readonly string[]>>[]>>

export function onlyGpuOps(runtime: TfRuntime): TfRuntime {
  const kernels = JSON.parse(readFileSync(new URL("fixtures/gpu-kernels.json", import.meta.url), "utf8")) as Kernels
  const fine = new Set<string>()
  return {
    ...runtime,
    executeOp(name, attributes, inputs, outputs) {
      const types = Object.entries(attributes).flatMap(([key, attr]) => ("type" in attr ? [[key, attr.type]] : []))
      const signature = `${name} ${types.map(([key, type]) => `${key}=${type}`).join(" ")}`
      if (!fine.has(signature)) {
        if (!kernels[name]?.some((kernel) => fits(kernel, attributes)))
          throw new Error(
            `no GPU could run ${signature}: TensorFlow 2.18.1 has no kernel for it; use another op (types it has: ${JSON.stringify(kernels[name]) ?? "none; or record-gpu-kernels.ts was not run since it is used"})`,
          )
        fine.add(signature)
      }
      return runtime.executeOp(name, attributes, inputs, outputs)
    },
  }
}

function fits(kernel: Kernels[string][number], attributes: Readonly<Record<string, TfAttr>>): boolean {
  return Object.entries(kernel).every(([key, types]) => {
    const attr = attributes[key]
    return attr === undefined || ("type" in attr && types.includes(attr.type))
  })
}
