import { cpSync, existsSync, readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { type Finished, fixtures, makeWorkplace, peft, type Workplace } from "./run-peft.ts"

// Every test starts processes, and shares the machine with other tests.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

let work: Workplace
beforeAll(() => {
  work = makeWorkplace()
})
afterAll(() => work.remove())

const llama = join(fixtures, "models", "llama")
const adapter = join(fixtures, "adapters", "llama", "lora-qv-r4")

/** A copy of a folder that `damage` may do harm to. */
function damaged(from: string, name: string, damage: (folder: string) => void): string {
  const folder = work.path(name)
  cpSync(from, folder, { recursive: true })
  damage(folder)
  return folder
}

function expectRefusal({ code, stdout, stderr }: Finished, error: string, ...hints: (string | RegExp)[]): void {
  expect(stderr).toContain(`(${error})`)
  for (const hint of hints) expect(stderr).toMatch(hint)
  expect(stderr).not.toMatch(/^\s+at /m)
  expect(stdout).toBe("")
  expect(code).toBe(1)
}

/** `peft train` with one thing wrong: refused with the code, and OUTPUT is not made. */
async function refuseTraining(
  name: string,
  args: Record<string, string | undefined>,
  error: string,
  ...hints: (string | RegExp)[]
) {
  const output = work.path(`out-${name}`)
  const given = { model: work.model, data: work.rows, output, "max-steps": "2", ...args }
  const flags = Object.entries(given).flatMap(([flag, value]) => (value === undefined ? [] : [`--${flag}`, value]))
  expectRefusal(await peft("train", ...flags, "--json"), error, ...hints)
  expect(existsSync(output)).toBe(false)
}

describe.concurrent("bad input to train", () => {
  it("a model folder that is not there", () =>
    refuseTraining("nowhere", { model: "./no/where" }, "E_FILE_NOT_FOUND", /no\/where/))

  it("a model that is neither a folder nor in the cache, where nothing may be fetched", () =>
    refuseTraining("offline", { model: "no/where" }, "E_HUB_OFFLINE", /no folder no\/where/))

  it("a data file that is not there", () =>
    refuseTraining("nodata", { data: "no.jsonl" }, "E_FILE_NOT_FOUND", /no\.jsonl/))

  it("data with a syntax error, whose line is named", () =>
    refuseTraining(
      "syntax",
      { data: work.write("syntax.jsonl", '{"text": "a"}\n{"text": }\n') },
      "E_JSON",
      /syntax\.jsonl, line 2/,
    ))

  it("a config.json with a syntax error, whose line is named", () => {
    const model = damaged(llama, "bad-config", (folder) => {
      const file = join(folder, "config.json")
      writeFileSync(file, readFileSync(file, "utf8").replace('"hidden_size": ', '"hidden_size" '))
    })
    const line =
      readFileSync(join(llama, "config.json"), "utf8")
        .split("\n")
        .findIndex((l) => l.includes("hidden_size")) + 1
    return refuseTraining("config", { model }, "E_JSON", new RegExp(`config\\.json, line ${line}`))
  })

  it("truncated weights", () => {
    const model = damaged(llama, "truncated", (folder) => truncateSync(join(folder, "model.safetensors"), 5000))
    return refuseTraining("truncated", { model }, "E_SAFETENSORS_SIZE", /model\.safetensors/)
  })

  it("weights of another shape than config.json says", () => {
    const model = damaged(llama, "lying", (folder) => {
      const file = join(folder, "config.json")
      writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), vocab_size: 99 }))
    })
    return refuseTraining("lying", { model }, "E_WEIGHTS", /embed_tokens/)
  })

  it("weights that are NaN", () => {
    const model = damaged(work.model, "nan", (folder) => {
      const file = join(folder, "model.safetensors")
      const bytes = readFileSync(file)
      bytes.fill(0xff, bytes.length - 4000)
      writeFileSync(file, bytes)
    })
    return refuseTraining("nan", { model }, "E_LOSS_NOT_FINITE", /step 1 is NaN/)
  })

  it("an adapter of another shape", () => {
    const folder = damaged(adapter, "other-rank", (folder) => {
      const file = join(folder, "adapter_config.json")
      writeFileSync(file, readFileSync(file, "utf8").replace('"r": 4', '"r": 5'))
    })
    return refuseTraining("shape", { model: llama, "init-adapter": folder }, "E_ADAPTER_SHAPE", /q_proj/)
  })

  it("an option that contradicts the adapter it starts from", () =>
    refuseTraining("contradiction", { model: llama, "init-adapter": adapter, r: "3" }, "E_OPTION", /r = 3.* has 4/))

  it("the same in PEFT's words", () =>
    refuseTraining(
      "contradiction2",
      { model: llama, "init-adapter": adapter, "method-option": "use_rslora=true" },
      "E_OPTION",
      /use_rslora = true.* has false/,
    ))

  it("a target that no layer has", () =>
    refuseTraining("target", { "target-modules": "q_porj" }, "E_TARGET", /did you mean q_proj/))

  it("data without rows", () => refuseTraining("empty", { data: work.write("empty.jsonl", "\n\n") }, "E_DATA_EMPTY"))

  it("data without a label that counts", () => {
    const row = JSON.stringify({ input_ids: [5, 6, 7], labels: [5, -100, -100] })
    return refuseTraining("masked", { data: work.write("masked.jsonl", `${row}\n${row}\n`) }, "E_NO_LABELS")
  })

  it("columns it does not know", () =>
    refuseTraining("columns", { data: work.write("columns.jsonl", '{"inputs": "a"}\n') }, "E_DATA_COLUMNS", /"prompt"/))

  it("a rank of 0", () => refuseTraining("rank", { r: "0" }, "E_RANK", /positive integer/))

  it("a number that is none", () =>
    refuseTraining("number", { "learning-rate": "fast" }, "E_OPTION", /--learning-rate.*"fast"/))

  it("an option that does not exist", () => refuseTraining("unknown", { targets: "q_proj" }, "E_OPTION", /--targets/))

  it("a method that does not exist", () =>
    refuseTraining("method", { method: "lroa" }, "E_METHOD", /@peftjs\/lroa and lroa/))

  it("an option that its method does not have", () =>
    refuseTraining("methodoption", { "method-option": "speed=3" }, "E_OPTION", /rankPattern/))

  it("an option of PEFT that is not supported", () =>
    refuseTraining("qalora", { "method-option": "use_qalora=true" }, "E_CONFIG_UNSUPPORTED", /use_rslora/))

  it("a schedule that does not exist", () =>
    refuseTraining("schedule", { "lr-scheduler": "linaer" }, "E_SCHEDULE", /linear/))

  it("no model", () => refuseTraining("nomodel", { model: undefined }, "E_OPTION", /--init-config/))

  it("a run to go on with that is not there", () =>
    refuseTraining("resume", { resume: work.path("out-resume") }, "E_RESUME", /start without --resume/))

  it("a configuration file with an option that does not exist, or a syntax error", async () => {
    const config = work.write("typo.yaml", "learning_rat: 1e-3\n")
    await refuseTraining("typo", { config }, "E_OPTION", /--learning-rat.*Did you mean --learning-rate/)
    await refuseTraining(
      "yaml",
      { config: work.write("bad.yaml", "r: 4\nalpha: [1\n") },
      "E_YAML",
      /bad\.yaml, line \d/,
    )
  })

  it("an output that holds another run, which stays as it is", async () => {
    const output = work.path("taken")
    cpSync(adapter, join(output, "adapter"), { recursive: true })
    const args = ["train", "--model", work.model, "--data", work.rows, "--output", output, "--max-steps", "1"]
    expectRefusal(await peft(...args), "E_OUTPUT_EXISTS", /--overwrite/)
    expect(existsSync(join(output, "metrics.jsonl"))).toBe(false)
  })
})

describe.concurrent("bad input to the others", () => {
  it("logits of rows that differ in length, or JSON that is none: no file is made", async () => {
    const output = work.path("logits.safetensors")
    const run = (input: string): Promise<Finished> =>
      peft("logits", "--model", llama, "--input", input, "--output", output)
    expectRefusal(
      await run(work.write("ragged.json", '{"input_ids": [[1, 2], [3]]}')),
      "E_INPUT",
      /rows of equal length/,
    )
    expectRefusal(await run(work.write("broken.json", '{"input_ids": \n[[1, 2,]]}')), "E_JSON", /broken\.json, line 2/)
    expectRefusal(await run(work.write("beyond.json", '{"input_ids": [[1, 9999]]}')), "E_TOKEN_ID", /9999/)
    expect(existsSync(output)).toBe(false)
  })

  it("an adapter with a tensor too few", async () => {
    const folder = damaged(adapter, "other-targets", (folder) => {
      const file = join(folder, "adapter_config.json")
      writeFileSync(file, readFileSync(file, "utf8").replace('"v_proj"', '"o_proj"'))
    })
    const args = ["--model", llama, "--adapter", folder, "--data", work.rows, "--json"]
    expectRefusal(await peft("eval", ...args), "E_ADAPTER_KEYS", /o_proj/)
  })

  it("generate without a tokenizer, or with a prompt of nothing", async () => {
    expectRefusal(await peft("generate", "--model", llama, "--prompt", "a", "--json"), "E_TOKENIZER")
    expectRefusal(await peft("generate", "--model", work.model, "--json"), "E_OPTION", /--prompt/)
  })

  it("inspect: NaN, a tensor without its partner, a lying header, a folder of nothing", async () => {
    const nan = damaged(adapter, "nan-adapter", (folder) => {
      const file = join(folder, "adapter_model.safetensors")
      const bytes = readFileSync(file)
      bytes.fill(0xff, bytes.length - 8)
      writeFileSync(file, bytes)
    })
    const renamed = damaged(adapter, "partner", (folder) => {
      const file = join(folder, "adapter_model.safetensors")
      writeFileSync(file, Buffer.from(readFileSync(file, "latin1").replace("q_proj.lora_A", "q_proj.lora_Z"), "latin1"))
    })
    const corpus = join(fixtures, "safetensors", "corpus")
    expectRefusal(await peft("inspect", nan, "--json"), "E_NOT_FINITE", /in 2 of \d+ values/)
    expectRefusal(await peft("inspect", renamed, "--json"), "E_ADAPTER_KEYS", /lora_B.* but not/)
    expectRefusal(
      await peft("inspect", join(corpus, "offsets-beyond-file.safetensors"), "--json"),
      "E_SAFETENSORS_SIZE",
    )
    expectRefusal(await peft("inspect", fixtures, "--json"), "E_INSPECT")
  })

  it("shows the stack only when asked", async () => {
    const quiet = await peft("inspect", "no/where")
    const loud = await peft("inspect", "no/where", "--debug")
    expect(quiet.stderr.trim().split("\n")).toHaveLength(1)
    expect(loud.stderr).toMatch(/^\s+at /m)
    expect([quiet.code, loud.code]).toEqual([1, 1])
  })
})
