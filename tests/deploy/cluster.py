"""What the API server of Kubernetes refuses though its published schemas allow it: references between fields.

Each rule is a function that is given the objects of one release and yields a sentence for each fault.
"""

import re

POD_OWNERS = ("Deployment", "StatefulSet", "DaemonSet")


def faults(objects):
    """Everything that is wrong with these objects together."""
    return [fault for rule in RULES for fault in rule(objects)]


def pods(objects):
    """Each pod template with what it belongs to."""
    for item in objects:
        if item["kind"] in POD_OWNERS:
            yield item, item["spec"]["template"]


def names_are_single(objects):
    """No two objects of a kind share a name."""
    seen = set()
    for item in objects:
        key = (item["kind"], item["metadata"]["name"])
        if key in seen:
            yield f"{key} is there twice"
        seen.add(key)
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", key[1]):
            yield f"{key} is no name"


def selectors_match(objects):
    """What selects pods selects the pods that are there, and owners select their own."""
    templates = [template["metadata"]["labels"] for _, template in pods(objects)]
    for item in objects:
        spec = item["spec"]
        if item["kind"] in (*POD_OWNERS, "PodDisruptionBudget"):
            labels = spec["selector"]["matchLabels"]
        elif item["kind"] == "Service":
            labels = spec["selector"]
        elif item["kind"] == "NetworkPolicy":
            labels = spec["podSelector"]["matchLabels"]
        else:
            continue
        if not any(labels.items() <= template.items() for template in templates):
            yield f"{item['kind']} selects {labels}, which no pod has"


def volumes_and_mounts_agree(objects):
    """Each mount has its volume, each volume is mounted, no place is taken twice."""
    for owner, template in pods(objects):
        claims = owner["spec"].get("volumeClaimTemplates", [])
        volumes = [volume["name"] for volume in template["spec"].get("volumes", [])]
        volumes += [claim["metadata"]["name"] for claim in claims]
        mounts = [mount for container in template["spec"]["containers"] for mount in container["volumeMounts"]]
        for fault in sorted({mount["name"] for mount in mounts} ^ set(volumes)):
            yield f"{fault} is mounted and no volume, or a volume and not mounted"
        places = [mount["mountPath"] for mount in mounts]
        if len(set(places)) < len(places) or len(set(volumes)) < len(volumes):
            yield f"twice: {sorted(places)}, {sorted(volumes)}"


def ports_have_names(objects):
    """What is called by name is a port of the container."""
    for _, template in pods(objects):
        for container in template["spec"]["containers"]:
            known = {port["name"] for port in container["ports"]}
            probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "readiness", "liveness")]
            wanted = {check["port"] for probe in probes for check in probe.values() if is_port(check)}
            for item in objects:
                if item["kind"] == "Service":
                    wanted |= {port["targetPort"] for port in item["spec"]["ports"]}
            for name in wanted - known:
                yield f"port {name} is none of {known}"


def is_port(check):
    """Whether a field of a probe has one."""
    return isinstance(check, dict) and "port" in check


def environment_is_single(objects):
    """A name twice: the last one wins, silently."""
    for _, template in pods(objects):
        for container in template["spec"]["containers"]:
            names = [variable["name"] for variable in container["env"]]
            for name in {name for name in names if names.count(name) > 1}:
                yield f"{name} is set twice"
            for variable in container["env"]:
                if not isinstance(variable.get("value", ""), str):
                    yield f"{variable} is no string"


def security_contexts_are_possible(objects):
    """The combinations that validation of the core API names."""
    for _, template in pods(objects):
        spec = template["spec"]
        for container in spec["containers"]:
            context = container["securityContext"]
            if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
                yield "privileged without allowPrivilegeEscalation"
            if context.get("procMount") == "Unmasked" and spec.get("hostUsers") is not False:
                yield "procMount Unmasked with the host's users"
            if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
                yield "root that is not root"
            for name in ("seccompProfile", "appArmorProfile"):
                profile = context.get(name) or {}
                if (profile.get("type") == "Localhost") != bool(profile.get("localhostProfile")):
                    yield f"{name} {profile}"
            limits = container["resources"].get("limits", {})
            for name, value in container["resources"].get("requests", {}).items():
                if name in limits and amount(value) > amount(limits[name]):
                    yield f"requests more {name} than its limit"


def amount(quantity):
    """A quantity as a number."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(quantity)).groups()
    powers = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    powers |= {f"{letter}i": 1024 ** (index + 1) for index, letter in enumerate("KMGTP")}
    return float(number) * powers[unit]


def updates_are_possible(objects):
    """Strategy, scale and claims fit together."""
    scaled = {item["spec"]["scaleTargetRef"]["name"]: item for item in objects if item["kind"] == "HorizontalPodAutoscaler"}
    for owner, template in pods(objects):
        spec = owner["spec"]
        name = owner["metadata"]["name"]
        strategy = spec.get("strategy", {})
        if strategy.get("type") == "Recreate" and "rollingUpdate" in strategy:
            yield "Recreate with rollingUpdate"
        has_claim = any("persistentVolumeClaim" in volume for volume in template["spec"].get("volumes", []))
        if has_claim and (strategy.get("type") != "Recreate" or spec.get("replicas", 2) > 1):
            yield "several pods on one claim"
        if ("replicas" in spec) == (name in scaled):
            yield "replicas are set by two, or by nobody"
        if owner["kind"] == "StatefulSet":
            services = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Service"}
            if services.get(spec["serviceName"], {}).get("spec", {}).get("clusterIP") != "None":
                yield f"no headless Service {spec['serviceName']}"
    for name, item in scaled.items():
        if not any(owner["metadata"]["name"] == name and owner["kind"] == item["spec"]["scaleTargetRef"]["kind"] for owner, _ in pods(objects)):
            yield f"nothing there to scale: {name}"
        if item["spec"]["minReplicas"] > item["spec"]["maxReplicas"]:
            yield "at least more than at most"


def service_monitors_read_what_is_there(objects):
    """Their definition is no part of Kubernetes and has no schema here: what it refers to is looked at instead."""
    for item in objects:
        if item["kind"] != "ServiceMonitor":
            continue
        if item["apiVersion"] != "monitoring.coreos.com/v1" or set(item["spec"]) != {"selector", "endpoints"}:
            yield f"ServiceMonitor of {item['apiVersion']} with {sorted(item['spec'])}"
        wanted = item["spec"]["selector"]["matchLabels"].items()
        absent = {rule["key"] for rule in item["spec"]["selector"].get("matchExpressions", [])}
        found = [
            service
            for service in objects
            if service["kind"] == "Service"
            and wanted <= service["metadata"]["labels"].items()
            and not absent & set(service["metadata"]["labels"])
        ]
        if len(found) != 1:
            yield f"ServiceMonitor selects {len(found)} Services"
        for endpoint in item["spec"]["endpoints"]:
            if endpoint["port"] not in {port["name"] for service in found for port in service["spec"]["ports"]}:
                yield f"ServiceMonitor reads port {endpoint['port']}"


RULES = [
    names_are_single,
    selectors_match,
    volumes_and_mounts_agree,
    ports_have_names,
    environment_is_single,
    security_contexts_are_possible,
    updates_are_possible,
    service_monitors_read_what_is_there,
]
