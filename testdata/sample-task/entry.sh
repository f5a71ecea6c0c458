#!/bin/sh
# The sample task: it starts a program and reaches out to two sites, minds no
# failure, and ends with a status of its own.

echo "making a directory"
mkdir test

echo "fetching google.com"
wget google.com

sleep 1

echo "fetching yahoo.com"
wget yahoo.com

echo "done"
exit 42
