/** Which TensorFlow `peft setup cuda` fetches: names, versions and checksums. Nothing but data. */

export interface Wheels {
  /** Lines of a requirements file: what is unpacked whole but for headers, one by one. */
  readonly requirements: readonly string[]
  /** MB to fetch, and on disk afterwards. */
  readonly download: number
  readonly disk: number
}

/** TensorFlow's own wheel. The Python it is for does not matter: only its C library is used. */
export const pythonVersion = "3.11"
export const tensorflowVersion = "2.18.1"

export const tensorflow: Readonly<Record<"cpu" | "gpu", Wheels & { readonly name: string; readonly sha256: string }>> =
  {
    cpu: wheel("tensorflow-cpu", "810c75d7149d2da0cb2092187817b0dcabb80728ca9f9cf3a61f3f42fadd1298", 230, 652),
    gpu: wheel("tensorflow", "c9f87e5d2a680a4595f5dc30daf6bbaec9d4129b46d7ef1b2af63c46ac7d2828", 616, 1200),
  }

function wheel(name: string, sha256: string, download: number, disk: number): (typeof tensorflow)["cpu"] {
  return { name, sha256, requirements: [hashed(`${name}==${tensorflowVersion}`, sha256)], download, disk }
}

/** The CUDA 12.5 and cuDNN 9.3 libraries that this TensorFlow names as its extra "and-cuda". */
export const nvidia: Wheels = {
  requirements: [
    hashed("nvidia-cublas-cu12==12.5.3.2", "ca070ad70e9fa6654084575d01bd001f30cc4665e33d4bb9fc8e0f321caa034b"),
    hashed("nvidia-cuda-cupti-cu12==12.5.82", "bde77a5feb66752ec61db2adfe47f56b941842825b4c7e2068aff27c9d107953"),
    hashed("nvidia-cuda-nvcc-cu12==12.5.82", "b03e545b8e8c3ce7ebcd7fc44063180ff52ff01d064ece2127ed90a04ef12cd0"),
    hashed("nvidia-cuda-nvrtc-cu12==12.5.82", "3dbd97b0104b4bfbc3c4f8c79cd2496307c89c43c29a9f83125f1d76296ff3fd"),
    hashed("nvidia-cuda-runtime-cu12==12.5.82", "3e79a060e126df40fd3a068f3f787eb000fa51b251ec6cd97d09579632687115"),
    hashed("nvidia-cudnn-cu12==9.3.0.75", "9ad9c6929ebb5295eb4a1728024666d1c88283373e265a0c5c883e6f9d5cd76d"),
    hashed("nvidia-cufft-cu12==11.2.3.61", "9a6e8df162585750f61983a638104a48c756aa13f9f48e19ab079b38e3c828b8"),
    hashed("nvidia-curand-cu12==10.3.6.82", "2823fb27de4e44dbb22394a6adf53aa6e1b013aca0f8c22867d1cfae58405536"),
    hashed("nvidia-cusolver-cu12==11.6.3.83", "93cfafacde4428b71778eeb092ec615a02a3d05404da1bcf91c53e3fa1bce42b"),
    hashed("nvidia-cusparse-cu12==12.5.1.3", "016df8e993c437e8301e62739f01775cba988fd5253cd4c64173f8e8d2f8e752"),
    hashed("nvidia-nccl-cu12==2.21.5", "8579076d30a8c24988834445f8d633c697d42397e92ffc3f63fa26766d25e0a0"),
    hashed("nvidia-nvjitlink-cu12==12.5.82", "f9b37bc5c8cf7509665cb6ada5aaa0ce65618f2332b7d3e78e9790511f111212"),
  ],
  download: 1809,
  disk: 2700,
}

/** npm packages for the addon: its C++ sources, and the headers of N-API where Node brings none. */
export const addonSources = {
  name: "@tensorflow/tfjs-node-gpu@4.22.0",
  integrity: "sha512-p//NN6DGiN4hInUmIkRffaFVMcdTREUMjPyjW04J7OXvB2zBlQimj61eFKSgRrH3f5TnOfKzb0n56he/B6a4bw==",
} as const
export const nodeHeaders = {
  name: "node-api-headers@1.9.0",
  integrity: "sha512-2oNILP4jXwRB4ywnYKjVk1YyJ96n2D4EOVJO6S3oYZ5PtbJrw3Yt9TpAuX3nBLMuzn74rnfGQrv13pS9vC+YiA==",
} as const

function hashed(requirement: string, sha256: string): string {
  return `${requirement} --hash=sha256:${sha256}`
}
