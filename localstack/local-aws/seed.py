"""Lays DynamoDB Local, as Maven fetched it, and the system's Java where LocalStack 4.14 keeps its own downloads.

usage: seed.py ROOT LIB JAVA_HOME BYTE_BUDDY_AGENT
"""

import os
import shutil
import sys
import zipfile


def folded(line: str) -> str:
    """A manifest's line has 72 bytes at the most; what continues it begins with a space."""
    out, room = [], 70
    while line:
        out.append(line[:room])
        line, room = line[room:], 69
    return "\r\n ".join(out) + "\r\n"


def main(root: str, lib: str, java: str, agent: str) -> None:
    downloads = os.path.join(root, "var/lib/localstack/lib")
    there = os.path.join(downloads, "dynamodb-local/2")
    shutil.rmtree(there, ignore_errors=True)
    os.makedirs(os.path.join(there, "DynamoDBLocal_lib"))
    jars = []
    for name in sorted(os.listdir(lib)):
        os.symlink(os.path.abspath(os.path.join(lib, name)), os.path.join(there, "DynamoDBLocal_lib", name))
        if name.endswith(".jar"):
            jars.append("DynamoDBLocal_lib/" + name)
    manifest = "Manifest-Version: 1.0\r\nMain-Class: com.amazonaws.services.dynamodbv2.local.main.ServerRunner\r\n"
    manifest += folded("Class-Path: " + " ".join(jars)) + "\r\n"
    with zipfile.ZipFile(os.path.join(there, "DynamoDBLocal.jar"), "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", manifest)
    # LocalStack's own Java agent only lifts the limit of twenty indexes; one that does nothing stands in for it.
    shutil.copy(agent, os.path.join(there, "ddb-local-loader-0.1.jar"))
    marker = os.path.join(downloads, "java/21")
    os.makedirs(os.path.dirname(marker), exist_ok=True)
    if not os.path.islink(marker):
        os.symlink(java, marker)


if __name__ == "__main__":
    main(*sys.argv[1:5])
