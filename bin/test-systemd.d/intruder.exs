# Tries to register these names at each loopback address, over and over until its input ends. Then it says how often it
# was granted one, and how often refused.
loopbacks = [{127, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1}]
names = System.argv()
main = self()

spawn(fn ->
  IO.read(:eof)
  send(main, :stop)
end)

try = fn name, address ->
  family = if tuple_size(address) == 4, do: :inet, else: :inet6
  request = <<?x, 4_321::16, 77, 0, 6::16, 5::16, byte_size(name)::16, name::binary, 0::16>>

  with {:ok, connection} <- :gen_tcp.connect(address, 4369, [:binary, family, active: false], 5_000) do
    :gen_tcp.send(connection, <<byte_size(request)::16, request::binary>>)
    answer = :gen_tcp.recv(connection, 6, 10_000)
    :gen_tcp.close(connection)
    answer
  end
end

Stream.repeatedly(fn -> for name <- names, address <- loopbacks, do: {address, try.(name, address)} end)
|> Enum.reduce_while(%{}, fn answers, told ->
  told =
    Enum.reduce(answers, told, fn
      {address, {:ok, <<_, 0, _::binary>>}}, told -> Map.update(told, {:granted, address}, 1, &(&1 + 1))
      {address, {:ok, _}}, told -> Map.update(told, {:refused, address}, 1, &(&1 + 1))
      {_, {:error, _}}, told -> Map.update(told, :unanswered, 1, &(&1 + 1))
    end)

  receive do
    :stop -> {:halt, told}
  after
    10 -> {:cont, told}
  end
end)
|> inspect()
|> IO.puts()
