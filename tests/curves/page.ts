/** What a page needs to be one of the places where the curve is drawn: tests/curves.test.ts imports it there. */
import { cpu } from "@peftjs/backend-cpu"
import { webgpu } from "@peftjs/backend-webgpu"
import type { Backend } from "@peftjs/core"
import { type Checkpoint, type Curve, curve } from "./curve.ts"

// One of each: pipelines are compiled once.
const backends: Readonly<Record<"cpu" | "webgpu", Promise<Backend>>> = { cpu: cpu(), webgpu: webgpu() }

export const run = async (name: keyof typeof backends, part: "whole" | Checkpoint): Promise<Curve> =>
  curve(await backends[name], part)
