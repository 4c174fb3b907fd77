# Registers so many names, a connection each, and says when one of those is closed.
[count] = System.argv()

for n <- 1..String.to_integer(count) do
  {:ok, connection} = :gen_tcp.connect({127, 0, 0, 1}, 4369, [:binary, active: false])
  name = "many#{n}"
  request = <<?x, 4_321::16, 77, 0, 6::16, 5::16, byte_size(name)::16, name::binary, 0::16>>
  :ok = :gen_tcp.send(connection, <<byte_size(request)::16, request::binary>>)
  {:ok, <<?v, 0, _creation::32>>} = :gen_tcp.recv(connection, 6, 10_000)
  :ok = :inet.setopts(connection, active: true)
end

IO.puts("#{count} registered")

# The connections are this process's.
Stream.repeatedly(fn -> receive(do: ({:tcp_closed, _} = closed -> closed)) end) |> Enum.each(&IO.inspect/1)
