defmodule EmbeddedEpmd.Prober do
  @moduledoc """
  Looks names up over TCP at a steady rate, whatever the last look-up does, and keeps how long each took.
  """

  alias EmbeddedEpmd.Client

  @loopback {127, 0, 0, 1}
  @patience 10_000

  @doc "Starts to look up each of these names, in turn, of which the answer is known, so many times in a second."
  def start(expected, port, rate) do
    collector = spawn_link(fn -> collect([]) end)
    spawn_link(fn -> probe(collector, List.to_tuple(expected), port, div(1_000_000, rate), now(), 0) end)
    collector
  end

  @doc "A moment from which on look-ups can be asked for."
  def mark(_prober), do: now()

  @doc "The longest time that a look-up took which began since then, or had not ended, in microseconds."
  def longest_since(prober, mark) do
    Enum.max(for {_, took, :ok} <- since(prober, mark), do: took)
  end

  @doc "The look-ups since then that got another answer, and which."
  def failed_since(prober, mark), do: for({_, _, {:failed, answer}} <- since(prober, mark), do: answer)

  @doc "Ends it; returns how many look-ups there were, and those that failed."
  def stop(prober) do
    all = since(prober, now() - 3_600_000_000)
    Process.unlink(prober)
    Process.exit(prober, :kill)
    %{asked: length(all), failed: for({_, _, {:failed, answer}} <- all, do: answer)}
  end

  # All that began or had not ended then, when those that have begun by now have ended.
  defp since(prober, mark) do
    asked = now()
    await(prober, asked)
    send(prober, {:results, self()})

    receive do
      {:results, results} -> for {began, took, _} = result <- results, began + took >= mark, do: result
    end
  end

  defp await(prober, asked) do
    send(prober, {:results, self()})

    receive do
      {:results, [{began, took, _} | _]} when began > asked and took >= 0 ->
        :ok

      {:results, _} ->
        Process.sleep(2)
        await(prober, asked)
    end
  end

  defp collect(results) do
    receive do
      {:result, result} ->
        collect([result | results])

      {:results, from} ->
        send(from, {:results, results})
        collect(results)
    end
  end

  defp probe(collector, expected, port, pause, start, count) do
    {name, answer} = elem(expected, rem(count, tuple_size(expected)))

    spawn_link(fn ->
      began = now()
      got = Client.port(name, @loopback, port, @patience)
      send(collector, {:result, {began, now() - began, if(got == answer, do: :ok, else: {:failed, {name, got}})}})
    end)

    wait = start + (count + 1) * pause - now()
    if wait > 1_000, do: Process.sleep(div(wait, 1_000))
    probe(collector, expected, port, pause, start, count + 1)
  end

  defp now, do: System.monotonic_time(:microsecond)
end
