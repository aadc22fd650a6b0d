/** One vitest project per package, named as its folder, plus tests/, plus "chromium" for what runs in pages. Nothing is built: packages export their TypeScript source. */
import { readdirSync } from "node:fs"
import { availableParallelism } from "node:os"
import { defineConfig, type ViteUserConfig } from "vitest/config"
import { browserProjects } from "./tests/browser-project.ts"

/** Read by tests/backends.ts, in Node and in pages. */
const env = { REQUIRE_BACKENDS: process.env.REQUIRE_BACKENDS ?? "" }
const options = { environment: "node", pool: "forks", testTimeout: 60_000, hookTimeout: 60_000, env } as const
const packages = readdirSync(new URL("packages", import.meta.url))
/** Tests that run in a browser as well. */
const inPages = [
  "packages/*/test/conformance.test.ts",
  "tests/*-conformance.test.ts",
  "packages/core/test/{adapters,expr,loss,overlays,random,scopes,targets}.test.ts",
  "packages/gguf/test/{model,tokenizer}.test.ts",
  "packages/safetensors/test/header.test.ts",
  "packages/train/test/{batch,rows}.test.ts",
]

const config: ViteUserConfig = defineConfig({
  test: {
    globalSetup: "tests/vulkan.ts",
    // Vitest leaves one processor free, which of two is half.
    maxWorkers: availableParallelism(),
    projects: [
      ...packages.map((name) => ({ test: { ...options, name, include: [`packages/${name}/test/**/*.test.ts`] } })),
      { test: { ...options, name: "tests", include: ["tests/**/*.test.ts"] } },
      ...(await browserProjects(inPages, env)),
    ],
  },
})

export default config
