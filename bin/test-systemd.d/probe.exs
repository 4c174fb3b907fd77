# Looks the names of its arguments up, 100 times in a second. To each line of its input it answers with how many lookups
# failed since the last one, the milliseconds that the longest took, and the wrong answers; at the end with how many
# there were.
alias EmbeddedEpmd.Boot.Client
alias Support.Prober

port = 4369

expected =
  for name <- System.argv() do
    {:port, _, _} = answer = Client.port(name, {127, 0, 0, 1}, port, 10_000)
    {name, answer}
  end

prober = Prober.start(expected, port, 100)
IO.puts("asking")

"line\n"
|> Stream.iterate(fn _ -> IO.gets("") end)
|> Stream.drop(1)
|> Stream.take_while(&(&1 != :eof and &1 != "stop\n"))
|> Enum.reduce(Prober.mark(prober), fn _, mark ->
  failed = Prober.failed_since(prober, mark)
  IO.puts("#{length(failed)} #{div(Prober.longest_since(prober, mark), 1_000)} #{inspect(Enum.frequencies(failed))}")
  Prober.mark(prober)
end)

IO.puts(Prober.stop(prober).asked)
