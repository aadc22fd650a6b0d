/** How the page is served and built: demo/ lies beside it as its public files. */
import { defineConfig, type UserConfig } from "vite"

// A page that is isolated from other sites gets precise clocks.
const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" }

const config: UserConfig = defineConfig({
  root: import.meta.dirname,
  base: "./",
  publicDir: "../../demo",
  // A file that is not there is an error 404, not the page.
  appType: "mpa",
  // Every dependency is a module already; finding one late would reload the page.
  optimizeDeps: { noDiscovery: true },
  server: { headers },
  preview: { headers },
  worker: { format: "es" },
  build: { target: "es2023" },
})

export default config
