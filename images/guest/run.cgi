#!/bin/sh
# Executes the request's body and answers with what it prints and, last, its exit status.
printf 'Content-Type: text/plain\r\n\r\n'
sh 2>&1
echo "status $?"
