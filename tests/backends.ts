/**
 * Every backend of the workspace for where a test runs, Node or a page, as the conformance kit takes them. Each backend package says in
 * test/device.ts which it has; nothing is listed here.
 */
/// <reference types="vite/client" />
import type { BackendEntry } from "@peftjs/conformance"

const packages = import.meta.glob<{
  readonly backends: Readonly<Record<string, BackendEntry>>
  /** Where those compute that may do so on more than one device, by what they say themselves. */
  readonly devices?: Readonly<Record<string, () => Promise<string>>>
}>("../packages/backend-*/test/device.ts", { eager: true })

/** Names and factories, or the reason why one is absent here. */
export const backends: Readonly<Record<string, BackendEntry>> = Object.assign(
  {},
  ...Object.values(packages).map((own) => own.backends),
)

/** Devices by the name of the backend; without those that are absent, and those that have one device only. */
export const devices: Readonly<Record<string, () => Promise<string>>> = Object.assign(
  {},
  ...Object.values(packages).map((own) => own.devices ?? {}),
)

/**
 * The backends that REQUIRE_BACKENDS names (comma separated) and whose absence is a failure. "chromium" there is a place, not a backend; and
 * a page is not asked for a backend that its package has for Node alone.
 */
export const required: readonly string[] = (import.meta.env.REQUIRE_BACKENDS ?? "")
  .split(",")
  .map((name: string) => name.trim())
  .filter((name: string) => name !== "" && name !== "chromium")
  .filter((name: string) => typeof window === "undefined" || name in backends)
