/**
 * Bundles a module's sources and makes a component of them; `loket build` runs it in Node, with the tools of
 * `package.json` installed in the folder that is named in its input.
 *
 * Input: JSON `{ directory, source, library, tools, wit, declared, output }` on standard input. Output: JSON on
 * standard output, `{}` or `{ error: { kind, ... } }` with what is wrong with the sources; whatever else happens ends
 * it with a stack trace and the code 1.
 */

"use strict";

const fs = require("node:fs");
const { createRequire } = require("node:module");
const path = require("node:path");

const MARK = "loket-build-error: ";
const MAP = "/*map*/";
const OWN = /^(<loket>$|loket_guest:)/;

/** What is wrong with the sources; `facts` goes to `loket build`. */
class SourceError extends Error {
  constructor(facts) {
    super(facts.message);
    this.facts = facts;
  }
}

async function main() {
  const input = JSON.parse(fs.readFileSync(0, "utf8"));
  const tools = createRequire(path.join(input.tools, "package.json"));
  const code = await bundle(input, tools("esbuild"));
  const { componentize } = tools("componentize-qjs");
  const options = { witPath: input.wit, world: "module", sync: true, jsSource: code };
  const { component } = await componentize(options).catch((error) => {
    throw explained(error);
  });
  fs.writeFileSync(input.output, component);
}

/** One file of JavaScript with everything in it; its first line carries the source map. */
async function bundle(input, esbuild) {
  const { directory, source, library, declared } = input;
  const contents = `import { handle, load } from "loket_guest/entry.js";
load(() => require(${JSON.stringify(`./${source}`)}), ${JSON.stringify(declared)});
export { handle };
`;
  const result = await esbuild
    .build({
      stdin: { contents, resolveDir: directory, sourcefile: "<loket>", loader: "js" },
      absWorkingDir: directory,
      outfile: path.join(directory, "<bundle>"),
      bundle: true,
      write: false,
      format: "esm",
      platform: "neutral",
      mainFields: ["module", "main"],
      conditions: ["import", "module"],
      target: "es2023",
      supported: { "async-await": false, "async-generator": false, "for-await": false, "top-level-await": false },
      plugins: [guestLibrary(library), withoutMaps],
      tsconfigRaw: "{}",
      external: ["loket:*"],
      define: { "process.env.NODE_ENV": '"production"' },
      banner: { js: MAP },
      sourcemap: "external",
      sourcesContent: false,
      metafile: true,
      keepNames: true,
      charset: "utf8",
      logLevel: "silent",
    })
    .catch((error) => {
      throw explainedBundling(error);
    });
  refuseOutside(Object.keys(result.metafile.inputs), directory);
  const [map, code] = ["<bundle>.map", "<bundle>"].map((name) => {
    return result.outputFiles.find((file) => path.basename(file.path) === name).text;
  });
  const { sources, mappings } = JSON.parse(map);
  const known = { sources: sources.map((name) => shown(name, directory)), mappings };
  return code.replace(MAP, () => `globalThis.__loket_map = ${JSON.stringify(known)};`);
}

/**
 * Sources as they are, without a source map of their own: its comment may name any file of this machine, and what that
 * says would stand in the component. Of several comments the last one counts, so one that leads to nothing is added.
 * (`tsconfig.json` is not read for the same reason: it may extend any file, and errors quote it.)
 */
const withoutMaps = {
  name: "without-maps",
  setup(build) {
    build.onLoad({ filter: /\.[cm]?[jt]sx?$/, namespace: "file" }, (given) => {
      const contents = `${fs.readFileSync(given.path, "utf8")}\n//# sourceMappingURL=data:application/json,{}`;
      return { contents, loader: "default" };
    });
  },
};

/** The library under a name of its own, so that no path of this machine gets into the component. */
function guestLibrary(library) {
  const namespace = "loket_guest";
  const found = (name) => {
    const there = fs.existsSync(path.join(library, name));
    return there ? { namespace, path: name } : { errors: [{ text: `Could not resolve "${namespace}/${name}"` }] };
  };
  return {
    name: namespace,
    setup(build) {
      build.onResolve({ filter: /^loket_guest$/ }, () => found("index.js"));
      build.onResolve({ filter: /^loket_guest\// }, (given) => found(given.path.slice(namespace.length + 1)));
      build.onResolve({ filter: /^\.\//, namespace }, (given) => found(given.path.slice(2)));
      build.onLoad({ filter: /.*/, namespace }, (given) => {
        return { contents: fs.readFileSync(path.join(library, given.path), "utf8"), loader: "js" };
      });
    },
  };
}

/** A file as its author knows it. */
function shown(name, directory) {
  if (OWN.test(name)) {
    return name.replace("loket_guest:", "loket_guest/");
  }
  return posix(path.relative(directory, path.resolve(directory, name)));
}

function posix(name) {
  return name.split(path.sep).join("/");
}

function inside(file, folder) {
  const relative = path.relative(folder, file);
  return relative !== "" && !relative.startsWith("..") && !path.isAbsolute(relative);
}

/** A module is made of what stands in its folder; links that lead out of it do not count. */
function refuseOutside(inputs, directory) {
  const real = fs.realpathSync(directory);
  for (const name of inputs.filter((one) => !OWN.test(one))) {
    const full = path.resolve(directory, name.replace(/^\(disabled\):/, ""));
    const file = fs.existsSync(full) ? fs.realpathSync(full) : full;
    if (!inside(file, real)) {
      throw new SourceError({ kind: "outside", message: posix(name) });
    }
  }
}

/** The first error of the bundler: a place and a message. */
function explainedBundling(error) {
  const first = error.errors?.[0];
  if (first === undefined) {
    return error;
  }
  const missing = /^Could not resolve "(.*)"$/.exec(first.text)?.[1];
  const place = first.location ?? { file: "", line: 0, column: -1, lineText: "" };
  const own = OWN.test(place.file);
  return new SourceError({
    kind: "source",
    type: missing === undefined ? "SyntaxError" : "ImportError",
    message: first.text,
    file: own ? "" : place.file,
    line: own ? 0 : place.line,
    column: own ? 0 : place.column + 1,
    text: own ? "" : place.lineText,
    missing: missing ?? null,
  });
}

/** What the library said when it loaded the sources, or the engine. */
function explained(error) {
  const line = String(error.message).split("\n").find((one) => one.includes(MARK));
  if (line === undefined) {
    return new SourceError({ kind: "engine", message: String(error.message) });
  }
  return new SourceError({ kind: "source", ...JSON.parse(line.slice(line.indexOf(MARK) + MARK.length)) });
}

main()
  .then(() => process.stdout.write("{}"))
  .catch((error) => {
    if (!(error instanceof SourceError)) {
      process.stderr.write(`${error.stack}\n`);
      process.exitCode = 1;
      return;
    }
    process.stdout.write(JSON.stringify({ error: error.facts }));
  });
