/**
 * One build for every package: each TypeScript file that `exports` names becomes dist/NAME.js and dist/NAME.d.ts.
 * Only publishing needs it; inside the repository packages run from source.
 */
import { readdirSync, readFileSync } from "node:fs"
import { defineConfig, type UserConfig } from "tsdown"

const configs: UserConfig[] = readdirSync("packages").map((name) => {
  const { exports } = JSON.parse(readFileSync(`packages/${name}/package.json`, "utf8"))
  const sources = [exports].flatMap(function strings(value: unknown): string[] {
    return typeof value === "string" ? [value] : Object.values(value as object).flatMap(strings)
  })
  const entry = name === "cli" ? ["src/main.ts"] : [...new Set(sources)].filter((path) => path.endsWith(".ts"))
  return {
    cwd: `packages/${name}`,
    entry,
    dts: name !== "cli",
    format: "esm",
    platform: "neutral",
    deps: { neverBundle: [/^node:/] },
    failOnWarn: true,
    target: "es2023",
    fixedExtension: false,
    sourcemap: true,
    logLevel: "warn",
  }
})

export default defineConfig(configs) as UserConfig[]
