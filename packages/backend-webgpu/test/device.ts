/** The WebGPU backend for the conformance kit: Dawn in Node, the browser's own in a page, absent where there is no adapter. */
import type { BackendEntry } from "@peftjs/conformance"
import { isPeftError } from "@peftjs/core"
import type { WebgpuBackend } from "../src/index.ts"

const { webgpu } = typeof window === "undefined" ? await import("../src/node.ts") : await import("../src/index.ts")

/** Opened once, which also finds out whether there is a device; its pipelines are compiled once for all who ask for no options. */
const opened: Promise<WebgpuBackend> = webgpu()

const absent: string | undefined = await opened.then(
  () => undefined,
  (error: unknown) => {
    if (isPeftError(error) && error.code === "E_NO_DEVICE") return error.message
    throw error
  },
)

/** A backend of its own with options, the one opened without. */
export const makeWebgpu = (options?: { maxBufferBytes?: number }): Promise<WebgpuBackend> =>
  options ? webgpu(options) : opened

export const backends: Readonly<Record<"webgpu", BackendEntry>> = {
  webgpu: absent === undefined ? makeWebgpu : { absent },
}

/** Where it computes, as its driver says: "NVIDIA H200", "SwiftShader Device (Subzero) (on the CPU)". */
export const devices: Readonly<Record<string, () => Promise<string>>> =
  absent === undefined
    ? {
        async webgpu() {
          const { description, vendor, architecture, software } = (await opened).info
          const name = description || [vendor, architecture].filter(Boolean).join(" ") || "a GPU without a name"
          return software ? `${name} (on the CPU)` : name
        },
      }
    : {}
