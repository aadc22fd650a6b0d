import { cpu } from "@peftjs/backend-cpu/node"
import { loadCausalLM, loadTokenizer } from "@peftjs/models/node"
import { initCausalLM } from "@peftjs/models"
import { train } from "@peftjs/train"
import { adapt, unfreeze } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { mora } from "@peftjs/mora"
import { pretrainingRows, lines } from "../scripts/demo/make-text.ts"
import { jsonl } from "@peftjs/train"
const tokenizer = await loadTokenizer("demo/model")
const config = (h: number, inter: number, L: number, heads=4, kv=4) => ({
  architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 896, tie_word_embeddings: true ,
  hidden_size: h, intermediate_size: inter, num_hidden_layers: L, head_dim: h/heads, hidden_act: "silu" ,
  num_attention_heads: heads, num_key_value_heads: kv, attention_bias: false, mlp_bias: false, attention_dropout: 0 ,
  max_position_embeddings: 256, rope_parameters: { rope_theta: 10000, rope_type: "default" } ,
  rms_norm_eps: 1e-5, initializer_range: 0.05, bos_token_id: null, eos_token_id: 2, pad_token_id: 0 })
for (const blas of ["off", process.env.PEFT_BLAS as string]) {
  const backend = await cpu({ blas })
  const demo = await loadCausalLM("demo/model", { backend })
  const rows = jsonl(lines(pretrainingRows(400)), "x")
  const uu = { name: "u", rows: Array.from({ length: 512 }, (_, i) => ({ kind: "ids" as const, ids: Array.from({ length: 13 }, (_, k) => 20 + ((i * 7 + k * 3) % 16)), labels: Array.from({ length: 13 }, (_, k) => k < 5 ? -100 : 20 + ((i * 7 + k * 3) % 16)) })) }
  for (const [name, base] of [["demo", demo], ["64x2", initCausalLM(config(64, 176, 2), { backend, tokenizer })], ["96x2", initCausalLM(config(96, 256, 2), { backend, tokenizer })]] as const)
    for (const [m, make] of [["full", () => unfreeze(base)], ["lora8", () => adapt(base, lora({ r: 8 }), { targetModules: "all-linear" })], ["mora8s", () => adapt(base, mora({ r: 8, type: "sharing" }), { targetModules: "all-linear" })], ["mora8r", () => adapt(base, mora({ r: 8, type: "rotation" }), { targetModules: "all-linear" })]] as const)
      for (const [d, data, bs] of [["text8x64", rows, 8], ["uuid64x13", uu, 64]] as const) {
        const model = make()
        const t: number[] = []; let t0 = process.cpuUsage(); let w0 = performance.now()
        await train(model, data as never, { maxSteps: 8, batchSize: bs, maxLength: 64, lossMask: "full", learningRate: 1e-3, onStep() { const c = process.cpuUsage(t0); t.push((c.user + c.system) / 1000); t0 = process.cpuUsage() } })
        t.sort((a, b) => a - b)
        console.log(backend.info?.kernels ?? "", name, m, d, "cpu ms/step median", t[4]?.toFixed(0), "wall/step", ((performance.now() - w0) / 8).toFixed(0))
      }
}
