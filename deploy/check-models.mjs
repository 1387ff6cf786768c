// Reads manifests (a JSON list) from standard input and checks those of cert-manager and of the Prometheus operator
// against the models of @kubernetes-models; writes a JSON list of complaints.  node deploy/check-models.mjs FOLDER
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const packages = {
  "cert-manager.io/v1": "cert-manager/cert-manager.io/v1",
  "monitoring.coreos.com/v1": "prometheus-operator/monitoring.coreos.com/v1",
};
const complaints = [];
for (const manifest of JSON.parse(readFileSync(0, "utf8"))) {
  const folder = packages[manifest.apiVersion];
  if (!folder) continue;
  const path = join(process.argv[2], "node_modules", "@kubernetes-models", folder, "index.js");
  const models = await import(pathToFileURL(path).href);
  const Model = models[manifest.kind];
  const name = `${manifest.kind}/${manifest.metadata?.name}`;
  if (!Model) complaints.push(`${name}: no such kind in ${manifest.apiVersion}`);
  else {
    try {
      new Model(manifest).validate();
    } catch (error) {
      complaints.push(`${name}: ${error.message}`);
    }
  }
}
process.stdout.write(JSON.stringify(complaints));
