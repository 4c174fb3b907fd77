defmodule Support.Once do
  @moduledoc """
  What takes long to make and is used by several test modules, which run side by side.
  """

  @doc "What `make` returns when it is called for this key for the first time. `clean_up` gets it after all tests."
  def get(key, make, clean_up) do
    :global.trans({{__MODULE__, key}, self()}, fn ->
      with :none <- :persistent_term.get({__MODULE__, key}, :none) do
        made = make.()
        ExUnit.after_suite(fn _ -> clean_up.(made) end)
        :persistent_term.put({__MODULE__, key}, made)
        made
      end
    end)
  end
end
