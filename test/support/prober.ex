defmodule Support.Prober do
  @moduledoc """
  Looks names up over TCP at a constant rate, without waiting for earlier lookups, and records how long each took.
  """

  alias EmbeddedEpmd.Boot.Client

  @loopback {127, 0, 0, 1}
  @timeout 10_000

  @doc "Starts to look up these names in turn, `rate` times a second. `expected` is a list of names and their answers."
  def start(expected, port, rate) do
    collector = spawn_link(fn -> collect([]) end)
    spawn_link(fn -> probe(collector, List.to_tuple(expected), port, div(1_000_000, rate), now(), 0) end)
    collector
  end

  @doc "A point in time for the functions below."
  def mark(_prober), do: now()

  @doc "The longest time of a successful lookup that ended at `mark` or later, in microseconds."
  def longest_since(prober, mark) do
    Enum.max(for {_, took, :ok} <- since(prober, mark), do: took)
  end

  @doc "The lookups that ended at `mark` or later with another answer than the expected one."
  def failed_since(prober, mark), do: for({_, _, {:failed, answer}} <- since(prober, mark), do: answer)

  @doc "Stops; returns how many lookups there were, and those that failed."
  def stop(prober) do
    all = since(prober, now() - 3_600_000_000)
    Process.unlink(prober)
    Process.exit(prober, :kill)
    %{asked: length(all), failed: for({_, _, {:failed, answer}} <- all, do: answer)}
  end

  # Waits until the lookups that have begun by now have ended.
  defp since(prober, mark) do
    send(prober, {:since, mark, now(), self()})

    receive do
      {:results, results} -> results
    end
  end

  defp collect(results) do
    receive do
      {:since, mark, asked, from} ->
        results = await(results, asked)
        send(from, {:results, for({began, took, _} = result <- results, began + took >= mark, do: result)})
        collect(results)

      {:result, result} ->
        collect([result | results])
    end
  end

  defp await(results, asked) do
    receive do
      {:result, {began, _, _} = result} when began > asked -> [result | results]
      {:result, result} -> await([result | results], asked)
    end
  end

  defp probe(collector, expected, port, pause, start, count) do
    {name, answer} = elem(expected, rem(count, tuple_size(expected)))

    spawn_link(fn ->
      began = now()
      got = Client.port(name, @loopback, port, @timeout)
      send(collector, {:result, {began, now() - began, if(got == answer, do: :ok, else: {:failed, {name, got}})}})
    end)

    wait = start + (count + 1) * pause - now()
    if wait > 1_000, do: Process.sleep(div(wait, 1_000))
    probe(collector, expected, port, pause, start, count + 1)
  end

  defp now, do: System.monotonic_time(:microsecond)
end
