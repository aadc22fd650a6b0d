/** The page that measures whatever GPU opens it: our products and training steps, as tables and as JSON. What is measured is kernel-bench.ts's. */
import { type WebgpuBackend, webgpu } from "@peftjs/backend-webgpu"
import { initCausalLM } from "@peftjs/models"
import demo from "../demo/model/config.json" with { type: "json" }
import { isSteady, type MatmulRow, matmulShapes, measureMatmuls, measureSteps, ourMatmul } from "./kernel-bench.ts"

const at = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T
const say = (text: string): void => {
  at("status").textContent = text
}

/** The sizes of SmolLM2-135M. */
const large = {
  ...{ model_type: "llama", vocab_size: 49_152, hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30 },
  ...{ num_attention_heads: 9, num_key_value_heads: 3, hidden_act: "silu", rms_norm_eps: 1e-5, rope_theta: 100_000 },
  ...{ max_position_embeddings: 8192, tie_word_embeddings: true, initializer_range: 0.04 },
}

/** Few and short on a driver that computes on the CPU, which would take minutes. */
async function measure(backend: WebgpuBackend): Promise<object> {
  const { info } = backend
  const [rounds, least] = info.software ? [2, 5] : [7, 100]
  const shapes = info.software ? matmulShapes.filter(({ m, n, k }) => m * n * k < 2e8) : matmulShapes
  const products: MatmulRow[] = []
  const onRow = (row: MatmulRow): void => {
    products.push(row)
    say(`${products.length} of ${shapes.length} products …`)
    table("products", "Products", ["ms", "GFLOP/s"], products.map(figuresOf))
  }
  await measureMatmuls([ourMatmul(backend)], shapes, { rounds, least, onRow })
  say("Training steps; the first ones compile …")
  const model = initCausalLM(at<HTMLSelectElement>("size").value === "large" ? large : demo, { backend })
  const steps = await measureSteps(model, backend.stats, info.software ? { batchSize: 1, tokens: 32 } : {})
  const { step: _, ...counts } = steps[0] ?? {}
  const names = Object.keys(counts)
  const cells = steps.map((row) => [`step ${row.step}`, ...names.map((name) => String(row[name as keyof typeof row]))])
  table("steps", "Training steps", names, cells)
  const { userAgent } = navigator
  return { date: new Date().toISOString(), userAgent, device: info, products, steps, steady: isSteady(steps) }
}

const figuresOf = ({ name, m, n, k, weight, milliseconds, gflops }: MatmulRow): string[] => [
  `${name} ${m}×${n}×${k} ${weight}`,
  String(milliseconds.peftjs),
  String(gflops.peftjs),
]

function table(id: string, title: string, columns: readonly string[], rows: readonly (readonly string[])[]): void {
  const place = at<HTMLTableElement>(id)
  place.replaceChildren()
  place.createCaption().textContent = title
  for (const cells of [["", ...columns], ...rows]) {
    const row = place.insertRow()
    for (const cell of cells) row.insertCell().textContent = cell
  }
}

async function start(): Promise<void> {
  const backend = await webgpu()
  const { vendor, architecture, description, software } = backend.info
  const name = description || `${vendor} ${architecture}`
  say(`${name}${software ? ", which computes on the CPU: figures mean little" : ""}. Ready.`)
  const [run, save] = [at<HTMLButtonElement>("run"), at<HTMLButtonElement>("save")]
  run.disabled = false
  run.addEventListener("click", async () => {
    run.disabled = true
    try {
      const result = await measure(backend)
      const text = JSON.stringify(result, undefined, 2)
      save.disabled = false
      save.onclick = () => offer(text)
      say(`${name}. Done.`)
    } catch (error) {
      say((error as Error).message)
    }
    run.disabled = false
  })
}

function offer(text: string): void {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }))
  link.download = "webgpu-bench.json"
  link.click()
}

start().catch((error: Error) => say(error.message))
