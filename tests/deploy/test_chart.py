"""The chart: every value set renders, what comes out is what Kubernetes takes, and what is wrong is refused.

`GOLDEN=write make deploy-test` writes what is made from something else: the settings in values.schema.json, and the plain
manifests. There is no cluster here: what only one can show is said in deploy/kubernetes/README.md.
"""

import copy
import functools
import json
import os
import pathlib
import re
import subprocess
import unittest

import helm_python
import kubernetes_validate
import yaml

import cluster
import settings

REPOSITORY = settings.REPOSITORY
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
CHART = KUBERNETES / "chart"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
SCHEMA = CHART / "values.schema.json"
MANIFESTS = KUBERNETES / "manifests"
PROGRAM = pathlib.Path(os.environ.get("SANDBOX_EXECUTOR", REPOSITORY / "target" / "release" / "sandbox-executor"))
KUBERNETES_VERSION = "1.33"
# Definitions of the Prometheus operator; kubernetes-validate knows Kubernetes' own alone.
WITHOUT_SCHEMA = {"ServiceMonitor"}
# Those that are also there without Helm.
PLAIN = ["default", "privileged", "statefulset"]

# One file of definitions for all kinds, read anew for each object otherwise.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def read(path):
    """A file of values."""
    return yaml.safe_load(path.read_text()) or {}


def merge(base, change):
    """Values over values, as Helm lays them."""
    merged = copy.deepcopy(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def texts(values):
    """What Helm makes of the chart with these values, by template."""
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(values, name="sandbox-executor", namespace="default")


def render(values):
    """The objects in it."""
    rendered = {path: text for path, text in texts(values).items() if not path.endswith("NOTES.txt")}
    return [item for text in rendered.values() for item in yaml.safe_load_all(text) if item]


def pod(objects):
    """The one pod template."""
    ((_, template),) = cluster.pods(objects)
    return template["spec"]


def container(objects):
    """Its one container."""
    (only,) = pod(objects)["containers"]
    return only


def environment(objects):
    """Variables that have a plain value."""
    return {variable["name"]: variable["value"] for variable in container(objects)["env"] if "value" in variable}


def of_kind(objects, kind):
    """The one object of a kind."""
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def schemas_of_settings():
    """What belongs into values.schema.json for the settings."""
    return {setting.name: setting.schema() for setting in settings.settings() if not setting.is_secret}


def plain(name):
    """A value set as one file to apply, without what Helm alone reads."""
    rendered = texts(read(CHART / "examples" / f"{name}.yaml"))
    documents = [
        # A comment before the first field belongs to the document.
        document.strip()
        for path, text in sorted(rendered.items())
        if not path.endswith("NOTES.txt")
        for document in re.split(r"^---\n", text, flags=re.MULTILINE)
        if document.strip()
    ]
    kept = [
        "\n".join(
            line
            for line in document.splitlines()
            if not re.match(r" *(helm\.sh/chart|app\.kubernetes\.io/managed-by|namespace): ", line)
        )
        for document in documents
    ]
    head = f"# Rendered from the chart with examples/{name}.yaml; GOLDEN=write make deploy-test writes it.\n"
    return head + "".join(f"---\n{document}\n" for document in kept)


def setUpModule():  # The name is unittest's.
    """Writes what is made from something else, if that is wanted."""
    if os.environ.get("GOLDEN") != "write":
        return
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"]["properties"] = schemas_of_settings()
    SCHEMA.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    for name in PLAIN:
        (MANIFESTS / f"{name}.yaml").write_text(plain(name))


class Examples(unittest.TestCase):
    """Each value set of the folder, whole."""

    def each(self):
        """Name, values and objects of each."""
        self.assertGreaterEqual(len(EXAMPLES), 7)
        for path in EXAMPLES:
            yield path.stem, read(path), render(read(path))

    def test_kubernetes_takes_every_object(self):
        """By the schemas of its version, with unknown fields refused."""
        validated = 0
        for name, _, objects in self.each():
            with self.subTest(example=name):
                for item in objects:
                    if item["kind"] in WITHOUT_SCHEMA:
                        continue
                    self.assertEqual(kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True), KUBERNETES_VERSION)
                    validated += 1
        print(f"{validated} objects of {len(EXAMPLES)} value sets valid for Kubernetes {KUBERNETES_VERSION}")

    def test_what_no_schema_says_holds_too(self):
        """References between fields and objects."""
        for name, _, objects in self.each():
            with self.subTest(example=name):
                self.assertEqual(cluster.faults(objects), [])

    def test_helm_lints_them(self):
        """An icon is all that may be missing."""
        for name, values, _ in self.each():
            with self.subTest(example=name):
                report = helm_python.lint(CHART, values, strict=True, kube_version=f"v{KUBERNETES_VERSION}.0")
                told = [message["error"] for message in report["messages"]]
                self.assertEqual((told, report["errors"]), (["icon is recommended"], []))

    def test_the_program_takes_the_settings(self):
        """What the container would be given, given to the program itself."""
        self.assertTrue(PROGRAM.exists(), f"{PROGRAM}: make build")
        for name, _, objects in self.each():
            with self.subTest(example=name):
                given = environment(objects)
                shown = subprocess.run([PROGRAM, "config"], env=given, text=True, capture_output=True, check=False)
                self.assertEqual(shown.returncode, 0, shown.stderr)
                sources = dict(re.findall(r"^(\w+) += .*# (\w+)$", shown.stdout, re.MULTILINE))
                # One that is empty is not set, which is what it is for.
                wanted = {name: "environment" for name, value in given.items() if value and name in sources}
                self.assertGreater(len(wanted), 7)
                self.assertEqual({name: sources[name] for name in wanted}, wanted)

    def test_nothing_more_than_needed_is_allowed(self):
        """Of every set but the privileged one, which is there because people know it."""
        for name, _, objects in self.each():
            with self.subTest(example=name):
                spec, context = pod(objects), container(objects)["securityContext"]
                self.assertFalse(spec["automountServiceAccountToken"])
                self.assertFalse(spec["enableServiceLinks"])
                if name == "privileged":
                    self.assertTrue(context["privileged"])
                    continue
                wanted = {"runAsNonRoot": True, "runAsUser": 1000, "allowPrivilegeEscalation": False}
                wanted |= {"privileged": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
                self.assertEqual({key: context[key] for key in wanted}, wanted)
                policy = of_kind(objects, "NetworkPolicy")["spec"]
                self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
                self.assertTrue(all(rule.get("from") for rule in policy["ingress"]), policy)
                self.assertTrue(all(rule.get("to") for rule in policy["egress"]), policy)

    def test_the_grace_of_the_pod_is_longer_than_the_services(self):
        """With what comes before SIGTERM and what the service does after its grace."""
        for name, _, objects in self.each():
            with self.subTest(example=name):
                before = container(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
                grace = int(environment(objects)["SHUTDOWN_GRACE"])
                self.assertGreaterEqual(pod(objects)["terminationGracePeriodSeconds"], before + grace + 10)

    def test_no_full_disk_restarts_a_pod(self):
        """Only readiness looks at what /health answers."""
        for name, _, objects in self.each():
            with self.subTest(example=name):
                probes = container(objects)
                self.assertEqual(probes["readinessProbe"]["httpGet"]["path"], "/health")
                self.assertIn("tcpSocket", probes["startupProbe"])
                command = probes["livenessProbe"]["exec"]["command"]
                self.assertEqual(command[0], "curl")
                self.assertFalse({"--fail", "-f"} & set(command))


class Settings(unittest.TestCase):
    """Every variable of the program can be set."""

    def test_each_arrives_as_the_program_reads_it(self):
        """By the program's own answer: a number in the form of a float would be refused by it."""
        found = settings.settings()
        self.assertGreater(len(found), 40)
        for setting in found:
            if setting.is_secret:
                continue
            with self.subTest(setting=setting.name):
                value = setting.example()
                given = environment(render({"config": {setting.name: value}}))
                self.assertIn(setting.name, given)
                alone = {"STATE_PATH": "/srv/state", setting.name: given[setting.name]}
                shown = subprocess.run([PROGRAM, "config"], env=alone, text=True, capture_output=True, check=False)
                self.assertEqual(shown.returncode, 0, shown.stderr)
                line = next(line for line in shown.stdout.splitlines() if line.startswith(f"{setting.name} "))
                self.assertRegex(line, r"# environment$")
                written = ",".join(value) if isinstance(value, list) else value
                written = int(value) if isinstance(value, float) and value.is_integer() else written
                self.assertIn(f"= {str(written).lower()} ", line.lower())

    def test_the_two_tokens_come_from_a_secret(self):
        """And can't be written into the values."""
        names = [setting.name for setting in settings.settings() if setting.is_secret]
        self.assertEqual(names, ["EXECUTOR_API_TOKEN", "INTERNAL_API_TOKEN"])
        for secret in ({"secretName": "mine", "apiTokenKey": "a", "internalApiTokenKey": "b"}, {"secretName": ""}):
            variables = container(render({"tokens": secret}))["env"]
            sources = [variable["valueFrom"]["secretKeyRef"] for variable in variables if variable["name"] in names]
            wanted = [{"name": "mine", "key": "a"}, {"name": "mine", "key": "b", "optional": True}]
            self.assertEqual(sources, wanted if secret["secretName"] else [])
        for name in names:
            with self.assertRaises(helm_python.HelmValuesError):
                render({"config": {name: "hunter2"}})

    def test_the_schema_names_what_the_program_has(self):
        """Written anew by GOLDEN=write."""
        found = json.loads(SCHEMA.read_text())["properties"]["config"]["properties"]
        self.assertEqual(found, schemas_of_settings(), "GOLDEN=write make deploy-test")

    def test_null_takes_a_default_of_the_chart_away(self):
        """Then the program's own holds."""
        self.assertIn("LOG_FORMAT", environment(render({})))
        self.assertNotIn("LOG_FORMAT", environment(render({"config": {"LOG_FORMAT": None}})))

    def test_a_pod_says_which_it_is(self):
        """Unless somebody says it for it."""
        named = {variable["name"]: variable.get("valueFrom") for variable in container(render({}))["env"]}
        self.assertEqual(named["POD_NAME"], {"fieldRef": {"fieldPath": "metadata.name"}})
        self.assertEqual(environment(render({"config": {"POD_NAME": "other"}}))["POD_NAME"], "other")


class Refusals(unittest.TestCase):
    """Values that are wrong."""

    def refused(self, values, words, base=None):
        """With these words; without the change the same renders."""
        base = base or {}
        render(base)
        with self.assertRaisesRegex((helm_python.HelmValuesError, helm_python.HelmRenderError), words):
            render(merge(base, values))

    def test_by_the_schema(self):
        """What is unknown, misspelt, out of bounds or of another type."""
        for values, words in [
            ({"replica": 2}, "additional properties 'replica'"),
            ({"image": {"name": "x"}}, "additional properties 'name'"),
            ({"config": {"MAX_MEMORY": 512}}, "additional properties 'MAX_MEMORY'"),
            ({"config": {"MAX_MEMORY_MB": 8}}, "minimum"),
            ({"config": {"MAX_MEMORY_MB": "512Mi"}}, "want null or integer"),
            ({"config": {"ISOLATION": "docker"}}, "must be one of"),
            ({"config": {"WARM_NODE": "some"}}, "/config/WARM_NODE"),
            ({"kind": "DaemonSet"}, "must be one of"),
            ({"replicas": -1}, "minimum"),
            ({"image": {"digest": "latest"}}, "pattern"),
            ({"name": "Sandbox_Executor"}, "pattern"),
            ({"service": {"type": "ExternalName"}}, "must be one of"),
            ({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": None}}}, "localhostProfile"),
            ({"securityContext": {"hostPID": True}}, "additional properties 'hostPID'"),
            ({"resources": {"limits": {"memory": "4 GB"}}}, "pattern"),
            ({"networkPolicy": {"clients": [{"pods": {}}]}}, "additional properties 'pods'"),
            # An empty peer would be everybody.
            ({"networkPolicy": {"clients": [{}]}}, "minProperties"),
            ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable"),
            ({"preStopSeconds": 0}, "minimum"),
        ]:
            with self.subTest(values=values):
                self.refused(values, words)

    def test_by_the_templates(self):
        """What is right one by one and wrong together, each with the sentence that says so."""
        claim = {"storage": {"state": {"existingClaim": "mine"}}}
        for values, words, base in [
            ({"kind": "StatefulSet"}, "existingClaim is for kind Deployment", claim),
            ({"replicas": 2}, "there can be one pod", claim),
            ({"autoscaling": {"enabled": True}}, "there can be one pod", claim),
            ({"autoscaling": {"enabled": True, "maxReplicas": 1}}, "maxReplicas is less", {}),
            ({"hostUsers": None}, "needs hostUsers false", {}),
            ({"hostUsers": True}, "needs hostUsers false", {}),
            ({"securityContext": {"privileged": True}}, "needs allowPrivilegeEscalation null", {}),
            ({"securityContext": {"runAsUser": 0}}, "needs runAsNonRoot false", {}),
            ({"config": {"EXECUTOR_HOST": "127.0.0.1"}}, "loopback", {}),
            ({"config": {"EXECUTOR_HOST": "::1"}}, "loopback", {}),
            ({"config": {"EXECUTOR_PORT": 0}}, "any free port", {}),
            ({"config": {"ALLOWED_HOSTS": ["a"]}}, "refuses with 403", {"serviceMonitor": {"enabled": True}}),
            ({"networkPolicy": {"controlPlane": {"peers": []}}}, "lets nothing out", read(CHART / "examples" / "statefulset.yaml")),
        ]:
            with self.subTest(values=values):
                self.refused(values, words, base)

    def test_a_broken_render_is_a_failure(self):
        """The tests themselves: objects with one fault each are told apart from the ones that are right."""
        good = render(read(CHART / "examples" / "everything.yaml"))
        self.assertEqual(cluster.faults(good), [])
        breaks = {
            "twice": lambda objects: objects.append(copy.deepcopy(objects[0])),
            "selects": lambda objects: of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].update(a="b"),
            "mounted": lambda objects: container(objects)["volumeMounts"].pop(),
            "port": lambda objects: container(objects)["ports"][0].update(name="web"),
            "set twice": lambda objects: container(objects)["env"].append({"name": "POD_NAME", "value": "x"}),
            "privileged": lambda objects: container(objects)["securityContext"].update(privileged=True),
            "Unmasked": lambda objects: pod(objects).pop("hostUsers"),
            "root": lambda objects: container(objects)["securityContext"].update(runAsUser=0),
            "seccompProfile": lambda objects: container(objects)["securityContext"]["seccompProfile"].pop("localhostProfile"),
            "requests more memory": lambda objects: container(objects)["resources"]["requests"].update(memory="1Ti"),
            "headless": lambda objects: of_kind(objects, "StatefulSet")["spec"].update(serviceName="none"),
            "replicas": lambda objects: of_kind(objects, "StatefulSet")["spec"].update(replicas=3),
            "scale": lambda objects: of_kind(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"].update(kind="Deployment"),
            "more than at most": lambda objects: of_kind(objects, "HorizontalPodAutoscaler")["spec"].update(minReplicas=99),
            "ServiceMonitor selects": lambda objects: of_kind(objects, "ServiceMonitor")["spec"]["selector"].pop("matchExpressions"),
            "reads port": lambda objects: of_kind(objects, "ServiceMonitor")["spec"]["endpoints"][0].update(port="metrics"),
        }
        for words, spoil in breaks.items():
            with self.subTest(words=words):
                bad = copy.deepcopy(good)
                spoil(bad)
                self.assertRegex("\n".join(cluster.faults(bad)), words)
        bad = copy.deepcopy(of_kind(good, "StatefulSet"))
        bad["spec"]["template"]["spec"]["hostUser"] = False
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(bad, KUBERNETES_VERSION, strict=True)


class Forms(unittest.TestCase):
    """What single values do."""

    def test_affinity_by_the_session(self):
        """Consistent hashing by a header where an ingress controller can do it; by address in the Service."""
        for controller, name, wanted in [
            ("ingress-nginx", "nginx.ingress.kubernetes.io/upstream-hash-by", "$http_x_session_id"),
            ("nginx-inc", "nginx.org/lb-method", "hash $http_x_session_id consistent"),
        ]:
            ingress = of_kind(render({"ingress": {"enabled": True, "controller": controller}}), "Ingress")
            self.assertEqual(ingress["metadata"]["annotations"][name], wanted)
        values = {"ingress": {"enabled": True, "sessionHeader": "X-Tenant", "annotations": {"a": "b"}}}
        annotations = of_kind(render(values), "Ingress")["metadata"]["annotations"]
        self.assertEqual(annotations["nginx.ingress.kubernetes.io/upstream-hash-by"], "$http_x_tenant")
        self.assertEqual(annotations["a"], "b")
        self.assertEqual(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"], "3600")
        none = of_kind(render({"ingress": {"enabled": True, "controller": "none"}}), "Ingress")
        self.assertNotIn("annotations", none["metadata"])
        service = of_kind(render({"service": {"sessionAffinity": "ClientIP"}}), "Service")
        self.assertEqual(service["spec"]["sessionAffinityConfig"], {"clientIP": {"timeoutSeconds": 10800}})

    def test_a_claim_of_ones_own(self):
        """One pod, and the old one ends before the new one starts."""
        objects = render({"storage": {"state": {"existingClaim": "mine"}}})
        volumes = {volume["name"]: volume for volume in pod(objects)["volumes"]}
        self.assertEqual(volumes["state"]["persistentVolumeClaim"], {"claimName": "mine"})
        self.assertIn("emptyDir", volumes["workspace"])
        self.assertEqual(of_kind(objects, "Deployment")["spec"]["strategy"], {"type": "Recreate"})

    def test_scaling_by_the_line(self):
        """The name is that of /metrics."""
        objects = render({"autoscaling": {"enabled": True}})
        metrics = of_kind(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
        self.assertEqual(metrics[1]["pods"]["metric"]["name"], "sandbox_executor_executions_queued")
        alone = of_kind(render({"autoscaling": {"enabled": True, "queuedPerPod": 0}}), "HorizontalPodAutoscaler")
        self.assertEqual([metric["type"] for metric in alone["spec"]["metrics"]], ["Resource"])

    def test_the_network_is_closed(self):
        """What is not named is refused: with nothing named, everything."""
        nothing = {"networkPolicy": {"clients": [], "dns": []}}
        policy = of_kind(render(nothing), "NetworkPolicy")["spec"]
        self.assertEqual((policy["ingress"], policy["egress"]), ([], []))
        one = of_kind(render({}), "NetworkPolicy")["spec"]
        self.assertEqual([port["port"] for port in one["egress"][0]["ports"]], [53, 53])
        self.assertEqual(len(one["egress"]), 1)
        control = of_kind(render(read(CHART / "examples" / "statefulset.yaml")), "NetworkPolicy")["spec"]
        self.assertIn([{"port": 8000, "protocol": "TCP"}], [rule["ports"] for rule in control["egress"]])

    def test_probes_come_by_a_name_that_is_answered(self):
        """Where the service answers to some names only."""
        get = container(render({"config": {"ALLOWED_HOSTS": "one.example, two.example"}}))["readinessProbe"]["httpGet"]
        self.assertEqual(get["httpHeaders"], [{"name": "Host", "value": "one.example"}])
        self.assertNotIn("httpHeaders", container(render({}))["readinessProbe"]["httpGet"])


class Documents(unittest.TestCase):
    """What is written beside the chart."""

    def test_every_value_is_documented(self):
        """By a comment of its own, right above."""
        lines = (CHART / "values.yaml").read_text().splitlines()
        keys = [index for index, line in enumerate(lines) if re.match(r" *[A-Za-z_-]+:", line)]
        self.assertGreater(len(keys), 100)
        # Peers are Kubernetes' own words.
        own = r" *(podSelector|namespaceSelector|matchLabels|app|k8s-app|kubernetes\.io/\S+):"
        bare = [
            lines[index].strip()
            for index in keys
            if not lines[index - 1].lstrip().startswith("# ")
            and not re.match(own, lines[index])
            and lines[index].strip() not in ("storage:", "probes:", "image:", "service:", "ingress:", "networkPolicy:")
            and lines[index].strip() not in ("podDisruptionBudget:", "autoscaling:", "serviceMonitor:", "spread:")
        ]
        self.assertEqual(bare, [])

    def test_every_value_is_in_the_schema(self):
        """And nothing else is."""

        def differences(values, schema, path):
            if "$ref" in schema or "properties" not in schema or path == "config":
                return
            for key in set(values) ^ (set(schema["properties"]) - {"global"}):
                yield f"{path}.{key}"
            for key in set(values) & set(schema["properties"]):
                if isinstance(values[key], dict):
                    yield from differences(values[key], schema["properties"][key], f"{path}.{key}".lstrip("."))

        found = set(differences(read(CHART / "values.yaml"), json.loads(SCHEMA.read_text()), ""))
        # May stand there and have no default.
        self.assertEqual(found, {"securityContext.capabilities.add"})

    def test_the_plain_manifests_are_what_the_chart_says(self):
        """Written anew by GOLDEN=write."""
        for name in PLAIN:
            with self.subTest(manifest=name):
                self.assertEqual((MANIFESTS / f"{name}.yaml").read_text(), plain(name), "GOLDEN=write make deploy-test")
        self.assertEqual(sorted(path.stem for path in MANIFESTS.glob("*.yaml")), PLAIN)


if __name__ == "__main__":
    unittest.main()
