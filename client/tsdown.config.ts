import { defineConfig } from "tsdown";

export default defineConfig({
  entry: ["src/index.ts", "src/tabs.ts", "src/react.ts", "src/next.ts"],
  format: "esm",
  platform: "neutral",
  target: "es2022",
  dts: true,
  fixedExtension: false,
});
