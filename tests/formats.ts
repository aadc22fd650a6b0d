/**
 * Every weight format of the workspace, as the conformance kit takes them. Each package that has formats says in test/formats.ts which;
 * nothing is listed here.
 */
/// <reference types="vite/client" />
import type { WeightFormat } from "@peftjs/core"

const packages = import.meta.glob<{ readonly weights: Readonly<Record<string, WeightFormat>> }>(
  "../packages/*/test/formats.ts",
  { eager: true },
)

/** By the names that the summary uses. */
export const weights: Readonly<Record<string, WeightFormat>> = Object.assign(
  {},
  ...Object.values(packages).map((one) => one.weights),
)
