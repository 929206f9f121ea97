# sh prog.sh ROOT: what tests/support/truth/expected.py says of it.
PATH=/usr/bin
cd "$1/output" || exit 90
mkdir folder
(cd folder && echo x >inner)
mv folder/inner 'a b'
ln -s 'a b' soft
ln 'a b' hard
cat soft >"$1/tmp/copy"
rm hard
rmdir folder
cat missing 2>/dev/null
sh -c 'exit 4'
sh -c 'kill -KILL $$'
printf 'q\n' | tee "quo\"te'" >/dev/null
mkfifo "$1/tmp/pipe"
sh -c 'kill -TERM $$'
echo done
