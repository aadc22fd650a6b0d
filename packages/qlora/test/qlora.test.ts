/** QLoRA as a value, and floats as Python writes them. */
import { expect, it } from "vitest"
import { qlora } from "../src/index.ts"
import { pythonFloat } from "../src/python-json.ts"

it("is a format and a method, with the paper's rank and alpha unless told otherwise", () => {
  const { weights, method } = qlora()
  expect([weights.name, method.name, method.config.r, method.config.alpha]).toEqual(["nf4", "lora", 64, 16])
  expect(weights.files?.config({ dtype: "bf16" })).toMatchObject({
    load_in_4bit: true,
    bnb_4bit_quant_type: "nf4",
    bnb_4bit_use_double_quant: true,
    bnb_4bit_compute_dtype: "bfloat16",
  })
  const other = qlora({ type: "int8", r: 4, alpha: 8, dropout: 0.1 })
  expect(other.weights.files?.config({ dtype: "f16" })).toMatchObject({ load_in_8bit: true, load_in_4bit: false })
  expect(other.method.config).toMatchObject({ r: 4, alpha: 8, dropout: 0.1 })
})

it.each([
  [0, "0.0"],
  [-0, "-0.0"],
  [1, "1.0"],
  [-2.5, "-2.5"],
  [0.13264918327331543, "0.13264918327331543"],
  [0.0001, "0.0001"],
  [0.00012345, "0.00012345"],
  [0.00001, "1e-05"],
  [-1.5e-7, "-1.5e-07"],
  [1e-38, "1e-38"],
  [123456789012345680, "1.2345678901234568e+17"],
  [1e15, "1000000000000000.0"],
  [1e16, "1e+16"],
  [1e22, "1e+22"],
])("%d is %s", (x, text) => expect(pythonFloat(x)).toBe(text))
