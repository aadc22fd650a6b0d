/**
 * The tests that compare with recorded figures, once for each level of the CPU backend: projects reference, wasm, blas-1, blas-2 and blas-4,
 * the last three with so many threads. The tests are those that run anyway; only the backend they import is another. Without a BLAS the
 * blas projects fail, so name one: PEFT_BLAS=PATH npx vitest run --config tests/levels/vitest.config.ts
 */
import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { defineConfig, type ViteUserConfig } from "vitest/config"

const levels = [
  ["reference", "reference", 1],
  ["wasm", "wasm", 1],
  ...[1, 2, 4].map((threads) => [`blas-${threads}`, "blas", threads] as const),
] as const

const packages = new URL("../../packages/", import.meta.url)
const include = [
  "train/test/{fixtures,recorded-restarts}.test.ts",
  "models/test/{llama,families,architectures,generate,save}.test.ts",
  "lora/test/{peft-fixtures,merge}.test.ts",
  "mora/test/{upstream,operators,adapters}.test.ts",
  "qlora/test/{bitsandbytes,model}.test.ts",
]

const config: ViteUserConfig = defineConfig({
  test: {
    maxWorkers: availableParallelism(),
    projects: levels.map(([name, kernels, threads]) => ({
      resolve: {
        alias: [{ find: /^@peftjs\/backend-cpu$/, replacement: fileURLToPath(new URL("cpu.ts", import.meta.url)) }],
      },
      test: {
        ...{ name, root: fileURLToPath(packages), include, environment: "node", pool: "forks", testTimeout: 120_000 },
        env: { TEST_KERNELS: kernels, TEST_THREADS: String(threads) },
      },
    })),
  },
})

export default config
