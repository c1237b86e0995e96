#!/bin/sh
# Serves until it is told to stop; a first process has to handle the signal itself.
trap 'kill "$!"; exit 0' TERM INT
while :; do
  # One run of the answer for each connection; each l is one place in the queue.
  nc -llllllllllllllllllllllllllllllll -p 8080 -e /srv/app/answer.sh &
  wait "$!"
done
