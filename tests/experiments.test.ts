/** The experiments run: a quick variant prints its table and leaves results whose numbers are numbers and whose losses fall. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it, vi } from "vitest"
import { continual } from "../experiments/continual.ts"
import type { Report } from "../experiments/report.ts"
import { pairs } from "../experiments/uuid.ts"

const folder = mkdtempSync(join(tmpdir(), "peftjs-experiments-"))
afterAll(() => {
  vi.restoreAllMocks()
  rmSync(folder, { recursive: true, force: true })
})

it("reading on lowers the loss on the domain, with LoRA and with MoRA, and is reported", {
  timeout: 120_000,
}, async () => {
  const said: string[] = []
  vi.spyOn(console, "log").mockImplementation((text) => void said.push(text))
  await continual({ quick: true, seed: 1, folder })
  const report: Report = JSON.parse(readFileSync(join(folder, "continual.json"), "utf8"))
  expect(report.runs.map(({ variant }) => variant)).toEqual(["LoRA r 2", "MoRA r 2"])
  for (const { points, diverged } of report.runs) {
    expect(diverged).toBeUndefined()
    const [before, after] = [points[0]?.domain as number, points.at(-1)?.domain as number]
    expect(after).toBeLessThan(before - 0.3)
    expect(after).toBeGreaterThan(0)
  }
  const table = said.find((text) => text.startsWith("method") && text.includes("forgetting") && text.includes("before"))
  expect(table?.match(/\d+\.\d{3}/g)?.length).toBe(9)
  for (const rows of Object.values(report.spectra))
    for (const { effectiveRank, full } of rows) {
      expect(effectiveRank).toBeGreaterThan(0)
      expect(effectiveRank).toBeLessThanOrEqual(full)
    }
  expect(readFileSync(join(folder, "continual.svg"), "utf8")).toMatch(/^<svg[\s\S]+<polyline[\s\S]+<\/svg>\n$/)
})

it("LoRA's update has the rank it was given, MoRA's a higher one", () => {
  const report: Report = JSON.parse(readFileSync(join(folder, "continual.json"), "utf8"))
  const ranks = (name: string): number[] => (report.spectra[name] ?? []).map(({ effectiveRank }) => effectiveRank)
  expect(Math.max(...ranks("LoRA r 2"))).toBeLessThan(2.01)
  expect(Math.min(...ranks("MoRA r 2"))).toBeGreaterThan(4)
})

it("pairs are the same for a seed, with as many keys as pairs", () => {
  expect(pairs(50, 3)).toEqual(pairs(50, 3))
  expect(pairs(50, 3)).not.toEqual(pairs(50, 4))
  expect(new Set(pairs(2000, 1).map(({ key }) => key)).size).toBe(2000)
  for (const { key, value } of pairs(20, 1)) expect(`${key}:${value}`).toMatch(/^[0-9a-f]{6}:[0-9a-f]{8}$/)
})
